"""Which evaluations are told is fixed before round 1, and so is what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.privacy.accountant import Release, epsilon
from client.privacy.metrics_plan import all_releases, is_due, next_release, planned
from client.privacy.noise_plan import noise_of
from conf.compose import compose
from conf.errors import SiloError
from conf.schema import RUN_SCOPE, RunScope, SampleDpConf
from strategies.wire.protocol import TEST, VALIDATION

ASKED = SampleDpConf(
    name="sample_dp", epsilon=4.0, metrics_epsilon=1.0, metrics_every=3, delta=1e-5
)
DRAWS = Release(0.2, 0.0, 8)


def scope(asked: SampleDpConf, rounds: int) -> RunScope:
    conf = compose(["privacy=sample_dp", "strategy.weighting=equal"])
    groups = {name: getattr(conf, name) for name in RUN_SCOPE}
    return RunScope(**groups | {"privacy": asked, "run": replace(conf.run, rounds=rounds)})


def test_it_is_told_each_so_many_rounds_and_at_the_end() -> None:
    due = [round for round in range(1, 9) if is_due(ASKED, 8, round, VALIDATION)]
    assert due == [3, 6, 8] and planned(ASKED, 8) == len(due) + 1
    assert is_due(ASKED, 8, 2, TEST) and planned(ASKED, 1) == 2
    assert planned(replace(ASKED, metrics_epsilon=0.0), 8) == 0
    assert all_releases(replace(ASKED, metrics_epsilon=0.0), 8, []) == []


def test_all_evaluations_cost_their_part_and_with_the_training_no_more_than_the_run() -> None:
    told = all_releases(ASKED, 8, [])
    assert len(told) == 4 and 0.99 < epsilon(told, ASKED.delta) <= 1
    noise = noise_of(ASKED, DRAWS, 8, (), told)
    trained = [replace(DRAWS, noise=noise)] * 8
    assert 3.9 < epsilon([*told, *trained], ASKED.delta) <= 4
    assert noise > noise_of(ASKED, DRAWS, 8), "the training pays for them"
    assert noise_of(ASKED, DRAWS, 4, trained[:4], told) == noise


def test_each_is_the_next_until_there_is_none() -> None:
    whole = scope(ASKED, 8)
    made: list[Release] = []
    while (one := next_release(whole, made, [])) is not None:
        made.append(one)
    assert made == all_releases(ASKED, 8, [])


def test_a_run_that_has_spent_its_epsilon_tells_nothing_more() -> None:
    spent = [Release(1.0, 1.0, 1)]
    assert epsilon(spent, ASKED.delta) > 4
    assert next_release(scope(ASKED, 8), [], spent) is None
    named = replace(ASKED, epsilon=None, noise_multiplier=1.0)
    assert next_release(scope(named, 8), [], spent) is not None


def test_a_run_that_is_continued_for_more_rounds_has_spent_its_part_and_goes_on_training() -> None:
    made = all_releases(ASKED, 8, [])
    assert all_releases(ASKED, 30, made) == made
    assert next_release(scope(ASKED, 30), made, []) is None
    half = made[:2]
    more = all_releases(ASKED, 9, half)
    assert len(more) == 4 and epsilon(more, ASKED.delta) <= 1


def test_a_part_that_no_noise_keeps_is_refused_before_anything_is_told() -> None:
    with pytest.raises(SiloError, match="MDW-378"):
        all_releases(replace(ASKED, metrics_epsilon=1e-7), 8, [])

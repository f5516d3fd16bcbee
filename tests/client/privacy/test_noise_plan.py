"""The noise of what is still to come: enough for the run's epsilon, and never so much that it is useless."""

from __future__ import annotations

import pytest

from client.privacy.accountant import Release, epsilon
from client.privacy.noise_plan import MOST_TIMES, noise_of
from conf.errors import SiloError
from conf.schema import NoisyConf, SampleDpConf

DRAWS = Release(0.05, 0.0, 20)
ASKED = SampleDpConf(name="sample_dp", epsilon=2.0)


def made(noise: float, count: int) -> list[Release]:
    return [Release(0.05, noise, 20)] * count


def test_what_is_left_has_the_noise_that_the_rest_of_the_epsilon_needs() -> None:
    first = noise_of(ASKED, DRAWS, 4)
    assert 1.95 < epsilon(made(first, 4), ASKED.delta) <= 2
    assert noise_of(ASKED, DRAWS, 2, made(first, 2)) == first
    # A round that was trained twice: the rest has more noise, and the whole costs no more.
    more = noise_of(ASKED, DRAWS, 2, made(first, 3))
    assert first < more < MOST_TIMES * first
    assert epsilon([*made(first, 3), *made(more, 2)], ASKED.delta) <= 2


def test_a_run_that_has_spent_its_epsilon_ends_instead_of_drowning_its_model_in_noise() -> None:
    first = noise_of(ASKED, DRAWS, 4)
    with pytest.raises(SiloError, match="MDW-378"):
        noise_of(ASKED, DRAWS, 1, made(first, 4))


@pytest.mark.parametrize("asked", [NoisyConf, SampleDpConf])
def test_a_noise_that_is_named_is_taken_and_nothing_named_is_refused(
    asked: type[NoisyConf],
) -> None:
    named = asked(name="sample_dp", epsilon=None, noise_multiplier=1.5)
    assert noise_of(named, DRAWS, 4, made(0.1, 9)) == 1.5
    with pytest.raises(SiloError, match="MDW-378"):
        noise_of(asked(name="sample_dp", epsilon=None), DRAWS, 4)

"""A threshold that counts in bins choose does to the scores what it is said to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.tasks.kinds.score_bins import histogram, thresholds
from conf.schema import OperatingConf
from server.scoring.operating_point import chosen_point, outcome_at
from server.scoring.outcome import OperatingPoint, Outcome

SCORES = st.lists(
    st.tuples(st.sampled_from([-50.0, -2.0, -0.3, 0.0, 0.1, 0.11, 4.0, 900.0]), st.booleans()),
    min_size=2,
    max_size=60,
)


def counts_of(scores: Tensor, positive: Tensor) -> Tensor:
    return histogram(scores[:, None], positive[:, None])[0]


def drawn(seed: int, count: int = 400) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    positive = torch.from_numpy(random.random(count) < 0.3)
    scores = torch.from_numpy(random.normal(0, 2, count)).float() + 2.0 * positive
    return scores, positive


@settings(deadline=None, max_examples=100)
@given(SCORES, st.sampled_from(["specificity", "sensitivity", "alarms", "youden"]))
def test_the_scores_from_the_threshold_on_are_the_counted_ones(
    rows: list[tuple[float, bool]], rule: str
) -> None:
    scores = torch.tensor([score for score, _ in rows])
    positive = torch.tensor([is_positive for _, is_positive in rows])
    counts = counts_of(scores, positive)
    point = chosen_point(counts, OperatingConf(rule, 0.6))
    if not positive.any() or positive.all():
        assert point is None
        return
    if point is None:
        assert rule in ("specificity", "alarms")
        return
    called = scores >= point.threshold
    told = Outcome(
        int((called & positive).sum()),
        int((called & ~positive).sum()),
        int(positive.sum()),
        int((~positive).sum()),
    )
    assert point.outcome == told
    assert outcome_at(counts, point.threshold) == told


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_threshold_that_keeps_the_rule(seed: int) -> None:
    scores, positive = drawn(seed)
    counts = counts_of(scores, positive)
    point = chosen_point(counts, OperatingConf("specificity", 0.9))
    assert point is not None
    best = 0.0
    for threshold in scores.tolist():
        called = scores >= threshold
        specificity = float((~called & ~positive).sum() / (~positive).sum())
        if specificity >= 0.9:
            best = max(best, float((called & positive).sum() / positive.sum()))
    assert point.outcome.specificity >= 0.9
    # A bin may hold two scores, and no threshold parts them.
    assert point.outcome.sensitivity == pytest.approx(best, abs=0.02)


def test_each_rule_keeps_what_it_says() -> None:
    counts = counts_of(*drawn(7, 2000))
    sensitive = chosen_point(counts, OperatingConf("sensitivity", 0.95))
    alarms = chosen_point(counts, OperatingConf("alarms", 5))
    youden = chosen_point(counts, OperatingConf("youden"))
    assert sensitive is not None and sensitive.outcome.sensitivity >= 0.95
    assert alarms is not None and 0 < alarms.outcome.alarms <= 5
    assert youden is not None
    for other in (sensitive, alarms):
        both = other.outcome.sensitivity + other.outcome.specificity
        assert youden.outcome.sensitivity + youden.outcome.specificity >= both


def test_nothing_is_chosen_of_one_class_or_where_no_threshold_keeps_the_rule() -> None:
    scores = torch.tensor([1.0, 1.0, 1.0])
    assert chosen_point(counts_of(scores, torch.ones(3, dtype=torch.bool)), OperatingConf()) is None
    mixed = counts_of(scores, torch.tensor([True, False, False]))
    assert chosen_point(mixed, OperatingConf("specificity", 0.9)) is None


def test_a_point_is_the_same_after_writing_and_reading() -> None:
    point = chosen_point(counts_of(*drawn(3)), OperatingConf("youden"))
    assert point is not None
    assert OperatingPoint.from_json(point.to_json()) == point


def test_a_bin_begins_at_its_threshold() -> None:
    from client.tasks.kinds.score_bins import bin_of

    for bins in (64, 16_384):
        begin = torch.from_numpy(thresholds(bins)[1:].copy())
        before = torch.nextafter(begin, torch.tensor(-torch.inf))
        assert torch.equal(bin_of(begin, bins), torch.arange(1, bins))
        assert torch.equal(bin_of(before, bins), torch.arange(bins - 1))

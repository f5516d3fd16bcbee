"""AUROC and AUPRC of binned scores: what scikit-learn says is within the stated error, whatever ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from client.tasks.kinds import score_bins
from client.tasks.kinds.score_bins import BINS, Estimate, auprc, auroc, bin_of, histogram, mean

FINITE = st.floats(-1e6, 1e6, width=32)
# Many equal scores, many in one bin, and any at all.
SCORES = st.one_of(
    st.sampled_from([-1.0, 0.0, 0.5, 3.0]), st.floats(0.5, 0.5 + 2**-11, width=32), FINITE
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=80),
    st.sampled_from([64, 1024, BINS]),
)
def test_the_true_value_is_within_the_stated_error(
    rows: list[tuple[float, bool]], bins: int
) -> None:
    scores = torch.tensor([score for score, _ in rows], dtype=torch.float32)
    positive = torch.tensor([is_positive for _, is_positive in rows])
    counts = histogram(scores[:, None], positive[:, None], bins)[0]
    area = auroc(counts)
    precision = auprc(counts)
    if positive.any():
        true = average_precision_score(positive, scores)
        assert abs(precision.value - true) <= precision.error
    else:
        assert math.isnan(precision.value) and math.isnan(precision.error)
    if positive.any() and not positive.all():
        assert abs(area.value - roc_auc_score(positive, scores)) <= area.error
    else:
        assert math.isnan(area.value)


@pytest.mark.parametrize("positives, negatives", [(1, 1), (3, 50), (1000, 10), (5, 100_000)])
def test_the_error_covers_the_best_and_the_worst_order_in_one_bin(
    positives: int, negatives: int
) -> None:
    counts = torch.zeros(2, BINS, dtype=torch.int64)
    counts[0, 9] = negatives
    counts[1, 9] = positives
    truth = [0] * negatives + [1] * positives
    best = list(range(negatives + positives))
    worst = best[::-1]
    tied = [0] * negatives + [1] * positives
    for order in (best, worst, tied, [0] * len(truth)):
        true = average_precision_score(truth, order)
        assert abs(auprc(counts).value - true) <= auprc(counts).error
        assert abs(auroc(counts).value - roc_auc_score(truth, order)) <= auroc(counts).error


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2), st.sampled_from([64, BINS]))
def test_a_higher_score_is_never_in_a_lower_bin(scores: list[float], bins: int) -> None:
    ordered = torch.tensor(sorted(scores), dtype=torch.float32)
    places = bin_of(ordered, bins)
    assert (places.diff() >= 0).all()
    assert int(places.min()) >= 0 and int(places.max()) < bins


def test_scores_of_opposite_sign_are_in_mirrored_bins() -> None:
    scores = torch.tensor([1e-3, 0.1, 5.0, 700.0, 16_000.0, math.inf])
    assert torch.equal(bin_of(-scores), BINS - 1 - bin_of(scores))
    assert int(bin_of(torch.tensor(-0.0))) == int(bin_of(torch.tensor(0.0))) == BINS // 2
    assert int(bin_of(torch.tensor(math.inf))) == BINS - 1


def test_a_bin_is_a_two_thousandth_wide_at_the_middle_and_a_256th_of_a_large_score() -> None:
    at_zero = torch.arange(0, 1, 1 / 2048) / 4
    assert len(bin_of(at_zero).unique()) == 512
    assert int(bin_of(torch.tensor(100.0))) < int(bin_of(torch.tensor(100.4)))


def test_saturated_scores_do_not_share_a_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 40 + torch.rand(1000, generator=generator)
    assert bool((scores.sigmoid() == 1).all())
    assert len(bin_of(scores).unique()) > 8


def test_the_mean_leaves_out_what_is_undefined() -> None:
    undefined = score_bins.UNDEFINED
    assert mean([Estimate(0.5, 0.01), undefined, Estimate(0.7, 0.03)]) == Estimate(
        pytest.approx(0.6), pytest.approx(0.02)
    )
    assert math.isnan(mean([undefined]).value)


def test_a_million_scores_of_which_few_are_positive_are_known_to_three_digits() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(1_000_000) < 0.0013
    scores = torch.from_numpy((2 * rng.normal(size=1_000_000) + 6 * positive).astype(np.float32))
    counts = histogram(scores[:, None], torch.from_numpy(positive)[:, None])[0]
    found = auprc(counts)
    true = average_precision_score(positive, scores)
    assert abs(found.value - true) <= found.error < 2e-3
    assert abs(found.value - true) < 2e-4

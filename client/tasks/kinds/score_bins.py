"""AUROC and AUPRC of scores that are counted in bins, each with a bound on its error.

Scores can't be pooled without showing each of them; their counts in fixed bins can be added. What
happens inside a bin is unknown, so a metric lies between what the best and the worst order there
would give: the value is the middle, the error half the distance. The bins are fine near 0 and grow
with the distance from it, so that neither rare positives nor saturated scores end in one bin
(docs/benchmarks.md has the measurement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS: Final = 16_384
"""256 KiB an evaluation, for each class that is ranked."""
OCTAVES: Final = 16
START: Final = 0.25
"""A bin's width is a fixed share of the octave from START 2^k to START 2^(k+1), measured from
-START (or START) outwards; scores beyond 2^14 share the last bin.
"""
_MANTISSA_BITS: Final = 23
ROUNDING: Final = 1e-12
"""More than what the additions of 16,384 float64 numbers below 1 may be wrong by."""


MADE_OF_SCORES: Final[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
    ("auroc", "auroc_error", "auprc", "auprc_error"), ("scores",)
)
"""The metrics of a histogram of scores, each with the sum that it is made of."""


@dataclass(frozen=True)
class Estimate:
    """A value, and how far the true one is from it at most."""

    value: float
    error: float


UNDEFINED: Final = Estimate(math.nan, math.nan)
"""Without a positive or without a negative there is nothing to rank."""


def bin_of(scores: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin (int64) of each score: a higher score is never in a lower bin.

    `bins` is a power of two from 64 on. Scores are best log-odds or logits, which do not saturate.
    """
    per_octave = bins // (2 * OCTAVES)
    # The bits of a positive float32 count up with its value, an octave after the other. So the bins
    # are the same on every machine: an addition and a shift, no logarithm that rounds its own way.
    shift = _MANTISSA_BITS - int(math.log2(per_octave))
    first = int(torch.tensor(START).view(torch.int32)) >> shift
    size = (scores.float().abs() + START).view(torch.int32) >> shift
    distance = (size - first).clamp(0, bins // 2 - 1).long()
    return torch.where(scores < 0, bins // 2 - 1 - distance, bins // 2 + distance)


@cache
def thresholds(bins: int = BINS) -> NDArray[np.float32]:
    """Return for each bin the lowest score in it: a score is in that bin or a higher one where it
    is at least this. Of the lowest bin it is -inf.
    """
    steps = _sizes(bins).astype(np.float32) - np.float32(START)
    below = np.concatenate([-steps[1:][::-1], steps[:-1]])
    within = np.concatenate([-steps[:-1][::-1], steps[1:]])
    bin_below = bin_of(torch.from_numpy(below), bins).numpy()
    # `bin_of` rounds when it adds, so where a bin begins is looked for, number by number.
    for _ in range(64):
        middle = below + (within - below) / 2
        reached = bin_of(torch.from_numpy(middle), bins).numpy() > bin_below
        below = np.where(reached, below, middle)
        within = np.where(reached, middle, within)
    downwards, upwards = np.split(within, 2)
    return np.concatenate(
        [np.full(1, -np.inf, np.float32), downwards, np.zeros(1, np.float32), upwards]
    )


def centres(bins: int = BINS) -> NDArray[np.float64]:
    """Return a score in the middle of each bin."""
    sizes = _sizes(bins, past=1) - START
    middles = (sizes[:-1] + sizes[1:]) / 2
    return np.concatenate([-middles[::-1], middles])


def _sizes(bins: int, past: int = 0) -> NDArray[np.float64]:
    """Return |score| + START at the near end of each bin, from 0 outwards."""
    per_octave = bins // (2 * OCTAVES)
    places = np.arange(bins // 2 + past)
    octave, within = np.divmod(places, per_octave)
    ends: NDArray[np.float64] = START * 2.0**octave * (1 + within / per_octave)
    return ends


def histogram(scores: Tensor, positive: Tensor, bins: int = BINS) -> Tensor:
    """Return the counts (classes, 2, bins) of scores (n, classes): first of those that are not
    `positive` (n, classes), then of those that are.
    """
    classes = scores.shape[1]
    rows = torch.arange(classes, device=scores.device) * 2 + positive.long()
    cells = rows * bins + bin_of(scores, bins)
    return torch.bincount(cells.flatten(), minlength=classes * 2 * bins).reshape(classes, 2, bins)


def auroc(counts: Tensor) -> Estimate:
    """Return the area under the ROC curve of counts (2, bins): the chance that a positive's score is
    above a negative's, ties counting half (scikit-learn's `roc_auc_score`).
    """
    negatives, positives = _descending(counts)
    pairs = positives.sum() * negatives.sum()
    if pairs == 0:
        return UNDEFINED
    below = negatives.sum() - np.cumsum(negatives)
    ordered = float((positives * below).sum() / pairs)
    # In a bin all positives may be above all negatives, or below.
    unknown = float((positives * negatives).sum() / pairs)
    return Estimate(ordered + unknown / 2, unknown / 2 + ROUNDING)


def auprc(counts: Tensor) -> Estimate:
    """Return the average precision of counts (2, bins): the mean, over the positives, of the
    precision among the scores from a positive's own upwards (scikit-learn's
    `average_precision_score`).
    """
    negatives, positives = _descending(counts)
    total = positives.sum()
    if total == 0:
        return UNDEFINED
    above_positive = np.cumsum(positives) - positives
    above_negative = np.cumsum(negatives) - negatives
    least = _least(positives, above_positive, above_negative + negatives)
    # At most: all of a bin's positives tied, above its negatives. Each then has the precision of
    # the last one, which is the highest that any of them can have.
    last = above_positive + positives
    most = positives * _share(last, last + above_negative)
    low = float(least.sum() / total)
    high = float(most.sum() / total)
    return Estimate((low + high) / 2, (high - low) / 2 + ROUNDING)


def mean(estimates: list[Estimate]) -> Estimate:
    """Return the mean of those that are defined, and of their errors."""
    known = [one for one in estimates if not math.isnan(one.value)]
    if not known:
        return UNDEFINED
    value = sum(one.value for one in known) / len(known)
    return Estimate(value, sum(one.error for one in known) / len(known))


def _least(
    positives: NDArray[np.float64], above: NDArray[np.float64], negatives: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each bin's positives add up to at least: all of its negatives above them, no ties.

    The i-th of p positives, below t others and c negatives, then has the precision
    g(i) = (t + i) / (t + i + c), which grows ever more slowly. So its sum over i is at least
    p (g(1) + g(p)) / 2, and at least the integral of g from 0 to p, p - c log(1 + p / (t + c)).
    Together they are close for few positives and for many, without a term for each positive.
    """
    first = _share(above + 1, above + 1 + negatives)
    last = _share(above + positives, above + positives + negatives)
    by_ends = positives * (first + last) / 2
    before = above + negatives
    grown = np.log1p(_share(positives, before))
    by_integral = np.where(before > 0, positives - negatives * grown, positives)
    return np.maximum(by_ends, by_integral)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _descending(counts: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the counts of negatives and of positives, the highest scores first."""
    negatives, positives = counts.numpy().astype(np.float64)[:, ::-1]
    return negatives, positives

"""Whether a model's probabilities are what happens: reliability, its error, and a temperature.

A score is a log-odds: of what scores s the share sigmoid(s / T) should be positive. T is 1 for a
model as it is; one temperature that makes the likelihood of the validation examples largest is what
Guo et al. (2017), "On Calibration of Modern Neural Networks", found to mend most of what is wrong.
All of it is made of counts in bins, of all silos together.

The expected calibration error is theirs too: of 15 equally wide ranges of the probability, the mean
distance between what was said and what happened, weighted by examples.

Of more than two classes it is the probability of the class that is said, as there, and the
temperature is one of those at which silos counted (`client.tasks.kinds.confidence`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.tasks.kinds import confidence
from client.tasks.kinds.score_bins import centres

RANGES: Final = 15
COLDEST: Final = 0.05
HOTTEST: Final = 20.0
"""A temperature outside means that the scores say nothing, or that nothing contradicts them."""
_STEPS: Final = 80
"""Of a search that narrows by a third each time: to 1e-12 of the way."""


@dataclass(frozen=True)
class Reliability:
    """In each range of the probability that has examples: the mean of what was said, the share that
    was positive, and the examples; and the expected calibration error.
    """

    ranges: list[tuple[float, float, int]]
    error: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        ranges = [[round(said, 5), round(was, 5), count] for said, was, count in self.ranges]
        return {"ranges": ranges, "error": self.error}


def reliability(counts: Tensor, temperature: float = 1.0) -> Reliability:
    """Return how far probabilities of counts (2, bins) can be relied on."""
    return _reliability(counts, probability(centres(counts.shape[1]), temperature))


def confidence_reliability(counts: Tensor, temperature: float = 1.0) -> Reliability:
    """Return how far the probability of the class that is said can be relied on, of counts
    (temperatures, parts, 2) at one of their temperatures.
    """
    place = confidence.TEMPERATURES.index(temperature)
    middles = (np.arange(confidence.PARTS) + 0.5) / confidence.PARTS
    return _reliability(counts[place].T, middles)


def confidence_temperature(counts: Tensor, losses: Tensor) -> float | None:
    """Return the temperature at which the losses (temperatures) are least; None where that is at an
    end, where there are no examples, or where owners withhold counts.
    """
    sizes = counts.sum((1, 2))
    if not int(sizes[0]) or not bool(losses.all()):
        return None
    place = int(losses.argmin())
    if place in (0, len(confidence.TEMPERATURES) - 1):
        return None
    return confidence.TEMPERATURES[place]


def _reliability(counts: Tensor, said: NDArray[np.float64]) -> Reliability:
    """Return it of counts (2, parts) of which each part said one probability."""
    by_class = counts.numpy().astype(np.float64)
    every = by_class.sum(0)
    # A probability of 1 belongs to the last range.
    ranges = np.minimum((said * RANGES).astype(int), RANGES - 1)
    examples = np.bincount(ranges, every, RANGES)
    sums = np.bincount(ranges, every * said, RANGES)
    positive = np.bincount(ranges, by_class[1], RANGES)
    there = examples > 0
    if not there.any():
        return Reliability([], math.nan)
    apart = np.abs(sums - positive)[there].sum() / examples.sum()
    rows = [
        (float(sums[i] / examples[i]), float(positive[i] / examples[i]), int(examples[i]))
        for i in np.flatnonzero(there)
    ]
    return Reliability(rows, float(apart))


def temperature_of(scores: Sequence[Tensor]) -> float | None:
    """Return the temperature at which these counts (2, bins), taken together, are likeliest; None
    where they can't say: without a positive or a negative, or where it lies at an end.
    """
    counts = np.sum([one.numpy().astype(np.float64) for one in scores], axis=0)
    if not counts.sum(1).all():
        return None
    at = centres(counts.shape[1])
    low = math.log(COLDEST)
    high = math.log(HOTTEST)
    begin, end = low, high
    # The loss is convex in 1 / T, so along log T it falls and then rises.
    for _ in range(_STEPS):
        first = low + (high - low) / 3
        second = high - (high - low) / 3
        if _loss(counts, at, math.exp(first)) <= _loss(counts, at, math.exp(second)):
            high = second
        else:
            low = first
    found = (low + high) / 2
    if min(found - begin, end - found) < 1e-6:
        return None
    return math.exp(found)


def probability(
    scores: NDArray[np.float64] | float, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Return sigmoid(score / temperature), without an overflow."""
    half: NDArray[np.float64] = np.tanh(np.asarray(scores) / (2 * temperature))
    return (1 + half) / 2


def _loss(counts: NDArray[np.float64], at: NDArray[np.float64], temperature: float) -> float:
    cooled = at / temperature
    negative = np.logaddexp(0.0, cooled)
    positive = np.logaddexp(0.0, -cooled)
    return float((counts[0] * negative + counts[1] * positive).sum())

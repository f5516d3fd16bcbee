"""The geometric median (Pillutla et al. 2022, arXiv 1912.13445, algorithm 2).

The next model z has the least sum of a_k ||w_k - z|| over the silos' models w_k. The smoothed
Weiszfeld algorithm finds it as a weighted mean,

    b_k = a_k / max(nu, ||w_k - z||)          z <- sum(b_k w_k) / sum(b_k)

It bears liars with less than half of the weight, however many silos they are: a_k is 1 for each with
the weighting `equal`, and otherwise what the silos say of themselves.

Where the code says more than the paper: z starts at the coordinate-wise median, and not at the mean,
which one liar takes as far away as it likes; and it stops once no distance changes by a millionth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from strategies.cohort_rule import CohortRule
from strategies.combined import Combined, Values, distances, weighted, weighted_sum
from strategies.median import medians
from strategies.spill import Block, Flat, Rows

SETTLED: Final = 1e-6
"""Relative change of all distances below which a step has nothing more to find."""


class GeometricMedian(CohortRule):
    """The server's half: the least sum of distances; the silos just train."""

    rule = "geometric_median"

    def __init__(
        self, f: int = 1, bucket: int = 1, iterations: int = 10, smoothing: float = 1e-6
    ) -> None:
        super().__init__(f, bucket)
        self.iterations = iterations
        self.smoothing = smoothing

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return the weighted mean of the rows in which the algorithm ends, and its weights."""

        def middle(block: Block, values: Values) -> Values:
            return medians(values)[0]

        found = distances(rows, middle)
        weights = self._weights(rows, found)
        for _ in range(self.iterations - 1):
            before = found
            found = distances(rows, _mean_by(weights))
            weights = self._weights(rows, found)
            if np.all(np.abs(found - before) <= SETTLED * before):
                break
        return weighted(rows, weights)

    def _weights(self, rows: Rows, found: Values) -> Values:
        near = rows.weights / np.maximum(self.smoothing, found)
        return near / float(near.sum())


def _mean_by(weights: Values) -> Callable[[Block, Values], Values]:
    return lambda block, values: weighted_sum(values, weights)

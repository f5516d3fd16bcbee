"""Centered clipping (Karimireddy et al. 2021, arXiv 2012.10333, algorithm 2).

The server keeps a guess v of what the silos will change: what the model changed by in the round
before, zero at first. With x the model that was sent and w_k those of the silos,

    v <- v + mean((w_k - x - v) * min(1, tau / ||w_k - x - v||))          x <- x + v

so that a liar moves the model by tau / n in a round, however far it goes, and what it does from round
to round must add up. The proof is for a small share of liars; a round needs 2f + 1 updates here, for
a guess can't be right that most of them contradict. Numbers of examples are ignored.

Where the code says more than the paper: v is made of the silos' changes of the model, where the paper
has gradients with momentum; and without a `tau` it is the median of the round's distances, which no
minority decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.algorithm import Arrays
from strategies.cohort_rule import CohortRule
from strategies.combined import Combined, Values, distances, weighted, weighted_sum
from strategies.spill import Block, Flat, Rows


class CenteredClipping(CohortRule):
    """The server's half: it keeps v; the silos just train."""

    rule = "centered_clipping"

    def __init__(
        self, f: int = 1, bucket: int = 1, tau: float | None = None, iterations: int = 1
    ) -> None:
        super().__init__(f, bucket)
        self.tau = tau
        self.iterations = iterations
        self.v: dict[str, NDArray[Any]] = {}

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return x + v, and how much of each row is in v.

        The point from which rows are clipped is `rest` of the first one, x + v, and the rows by
        their weights: no step makes a model.
        """
        first = self._first_centre(rows, sent())
        count = len(rows)
        rest = 1.0
        weights = np.zeros(count)

        def centre(block: Block, values: Values) -> Values:
            point = weighted_sum(values, weights)
            point += rest * first[block.dtype][block.at]
            return point

        for _ in range(self.iterations):
            found = distances(rows, centre)
            kept = self._kept(found) / count
            left = 1.0 - float(kept.sum())
            weights = left * weights + kept
            rest = left * rest
        return weighted(rows, weights, lambda block, _: rest * first[block.dtype][block.at])

    def after(self, before: Arrays, mean: Arrays, extra: Any, replies: int) -> Arrays:
        """Return the next model, and keep what it changed by."""
        self.v = {
            name: np.asarray(new - before[name])
            for name, new in mean.items()
            if new.dtype.kind == "f" and name in before
        }
        return mean

    def _first_centre(self, rows: Rows, sent: Flat) -> Flat:
        """Return x + v in float64, by element type."""
        fitting = {
            name: self.v[name]
            if name in self.v and self.v[name].shape == span.shape
            else np.zeros(span.shape, np.dtype(span.dtype))
            for name, span in rows.layout.spans.items()
        }
        v = rows.layout.flat(fitting)
        return {dtype: x.astype(np.float64) + v[dtype] for dtype, x in sent.items()}

    def _kept(self, found: Values) -> Values:
        """Return which part of its distance each row keeps."""
        tau = float(np.median(found)) if self.tau is None else self.tau
        return np.minimum(1.0, tau / np.maximum(found, np.finfo(np.float64).tiny))

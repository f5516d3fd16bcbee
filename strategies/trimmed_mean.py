"""The coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498, algorithm 1, option II).

Each weight of the next model is the mean of the silos' values of it without the f smallest and the f
largest. It bears f liars of 2f + 1 silos: what a liar says is either cut off, or lies between honest
values. Numbers of examples are ignored.
"""

from __future__ import annotations

from collections.abc import Callable

from strategies.cohort_rule import CohortRule
from strategies.combined import Combined, Values, by_columns, in_order, mean_of, within
from strategies.spill import Flat, Rows


class TrimmedMean(CohortRule):
    """The server's half: the mean of each weight without its extremes; the silos just train."""

    rule = "trimmed_mean"

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return the means, and in how many weights each row is not cut off."""
        return by_columns(rows, self._trimmed)

    def _trimmed(self, values: Values) -> tuple[Values, Values]:
        kept = in_order(values)[self.f : len(values) - self.f]
        return mean_of(kept), within(values, kept[0], kept[-1])

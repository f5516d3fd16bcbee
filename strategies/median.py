"""The coordinate-wise median (Yin et al. 2018, arXiv 1803.01498, algorithm 1, option I).

Each weight of the next model is the median of the silos' values of it; of an even number of them the
mean of the two in the middle. It bears f liars of 2f + 1 silos: a median of a majority of honest
values lies between honest values. Numbers of examples are ignored.
"""

from __future__ import annotations

from collections.abc import Callable

from strategies.cohort_rule import CohortRule
from strategies.combined import Combined, Values, by_columns, in_order, within
from strategies.spill import Flat, Rows


class Median(CohortRule):
    """The server's half: the median of each weight; the silos just train."""

    rule = "median"

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return the medians, and in how many weights each row is in the middle."""
        return by_columns(rows, medians)


def medians(values: Values) -> tuple[Values, Values]:
    """Return the median of each column, and in how many of them each row is in the middle."""
    ordered = in_order(values)
    low = ordered[(len(values) - 1) // 2]
    high = ordered[len(values) // 2]
    return (low + high) / 2, within(values, low, high)

"""Bulyan (El Mhamdi et al. 2018, arXiv 1802.07927, section 4).

Krum chooses n - 2f updates, one after another of those that are left. Each weight of the next model
is the mean of the n - 4f of their values that are nearest to their median. It bears f liars of
4f + 3 silos, and leaves a liar that stays near the others less room in each single weight than Krum
does. Numbers of examples are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from strategies.cohort_rule import CohortRule
from strategies.combined import (
    Combined,
    Values,
    by_columns,
    in_order,
    squared_distances,
    weighted_sum,
    within,
)
from strategies.krum_scores import chosen_in_turn
from strategies.spill import Flat, Rows


class Bulyan(CohortRule):
    """The server's half: Krum's choice, then the middle of each weight; the silos just train."""

    rule = "bulyan"

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return the means around the medians, and in how many weights each row counts."""
        chosen = chosen_in_turn(squared_distances(rows), self.f, len(rows) - 2 * self.f)
        near = len(chosen) - 2 * self.f

        def of_columns(values: Values) -> tuple[Values, Values]:
            return means_near_the_median(values, chosen, near)

        return by_columns(rows, of_columns)


def means_near_the_median(
    values: Values, chosen: Sequence[int], near: int
) -> tuple[Values, Values]:
    """Return the mean of the `near` values of each column that are nearest to its median.

    Only of the chosen rows; and in how many columns each row is among them.
    """
    ordered = in_order(values[list(chosen)])
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    # In order, the nearest ones lie side by side: one window of several.
    best = np.full(values.shape[1], np.inf)
    mean = np.zeros(values.shape[1])
    first = np.zeros(values.shape[1])
    last = np.zeros(values.shape[1])
    for start in range(count - near + 1):
        window = ordered[start : start + near]
        reach = np.maximum(middle - window[0], window[-1] - middle)
        nearer = reach < best
        best = np.where(nearer, reach, best)
        mean = np.where(nearer, weighted_sum(window, np.ones(near)) / near, mean)
        first = np.where(nearer, window[0], first)
        last = np.where(nearer, window[-1], last)
    counted = np.zeros(len(values))
    counted[list(chosen)] = within(values[list(chosen)], first, last)
    return mean, counted

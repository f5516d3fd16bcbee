"""Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757, section 4).

The next model is the mean of the `select` updates with the lowest scores of Krum, by default of all
but f. It bears f liars of 2f + 3 silos; the paper's proof is for select <= n - 2f - 3 and more of
them use more of what silos have learned. Numbers of examples are ignored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from strategies.cohort_rule import CohortRule
from strategies.combined import Combined, squared_distances, weighted
from strategies.krum_scores import ranked
from strategies.spill import Flat, Rows


class MultiKrum(CohortRule):
    """The server's half: the mean of those that Krum ranks first; the silos just train."""

    rule = "multikrum"

    def __init__(self, f: int = 1, bucket: int = 1, select: int | None = None) -> None:
        super().__init__(f, bucket)
        self.select = select

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return the mean of the rows that are chosen."""
        most = len(rows) - self.f
        count = most if self.select is None else min(self.select, most)
        weights = np.zeros(len(rows))
        weights[list(ranked(squared_distances(rows), self.f)[:count])] = 1.0 / count
        return weighted(rows, weights)

"""Krum (Blanchard et al. 2017, arXiv 1703.02757).

The next model is that of one silo: the one whose n - f - 2 nearest neighbours are nearest to it. It
bears f liars of 2f + 3 silos. What the others have learned in the round is lost, and so are numbers
of examples; where silos' data differ it may choose the same silo in every round.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from strategies.cohort_rule import CohortRule
from strategies.combined import Combined, squared_distances, weighted
from strategies.krum_scores import ranked
from strategies.spill import Flat, Rows


class Krum(CohortRule):
    """The server's half: the update in the densest place; the silos just train."""

    rule = "krum"

    def combine(self, rows: Rows, sent: Callable[[], Flat]) -> Combined:
        """Return the one row that is chosen."""
        weights = np.zeros(len(rows))
        weights[ranked(squared_distances(rows), self.f)[0]] = 1.0
        return weighted(rows, weights)

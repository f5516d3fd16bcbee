"""How far a disease is after a year, a number, from ten measurements: rows of a CSV.

meadow simulate task.target=diabetes.py:Progression model=mlp data=iid data.root=diabetes.csv
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import meadow


class Progression(meadow.Regression):
    """Ten measurements, in units of about 0.05, and a score of 25 to 346."""

    contract = meadow.Contract((10,), targets=("progression",))
    ranges = ((0.0, 4.0),)

    def __init__(self, unit: float = 100.0) -> None:
        self.unit = unit

    def read(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return measurements and scores, in hundreds, of a CSV without a line of names."""
        rows = np.loadtxt(root, delimiter=",")
        return rows[:, :-1] * 20, rows[:, -1] / self.unit

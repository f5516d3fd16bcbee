"""What a house costs, and what it rents for, by its size and age: a regression of two numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import meadow


class Prices(meadow.Regression):
    """Prices in millions and rents in thousands, of houses of any size."""

    contract = meadow.Contract((2,), targets=("price", "rent"))
    ranges = ((0.0, 5.0), (0.0, 10.0))

    def read(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return size and age, and price and rent, of each line."""
        rows = np.loadtxt(root, delimiter=",")
        return rows[:, :2], rows[:, 2:]

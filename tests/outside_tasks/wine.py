"""Which of three growers a wine is from, by thirteen measurements: a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

import meadow

# Of wines in general: the same at every silo.
MEAN = [13, 2.3, 2.4, 19, 100, 2.3, 2.0, 0.36, 1.6, 5.1, 0.96, 2.6, 750]
SPREAD = [0.8, 1.1, 0.27, 3.3, 14, 0.63, 1.0, 0.12, 0.57, 2.3, 0.23, 0.71, 315]


class Wine(meadow.Classification):
    """A table of numbers, with the class in its last column."""

    contract = meadow.Contract((13,), ("barolo", "grignolino", "barbera"))

    def read(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the measurements and the growers."""
        rows = np.loadtxt(root, delimiter=",", skiprows=1)
        return rows[:, :-1], rows[:, -1].astype(np.int64)

    def scaled(self, inputs: Tensor) -> Tensor:
        """Return measurements in spreads from their means."""
        return (inputs - inputs.new_tensor(MEAN)) / inputs.new_tensor(SPREAD)

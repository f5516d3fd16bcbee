"""Which of three growers a wine is from: rows of a CSV whose last column is the class.

meadow simulate task.target=wine.py:Wine task.args.hidden=32 data.root=wine.csv
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import meadow

# Of wines in general, the same at every silo: the mean and the spread of each measurement.
MEAN = [13, 2.3, 2.4, 19, 100, 2.3, 2.0, 0.36, 1.6, 5.1, 0.96, 2.6, 750]
SPREAD = [0.8, 1.1, 0.27, 3.3, 14, 0.63, 1.0, 0.12, 0.57, 2.3, 0.23, 0.71, 315]


class Wine(meadow.Classification):
    """Thirteen measurements, and a network of one hidden layer."""

    requires = ("numpy>=1.26",)
    contract = meadow.Contract((13,), classes=("barolo", "grignolino", "barbera"))

    def __init__(self, hidden: int = 16) -> None:
        self.hidden = hidden

    def read(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return measurements and classes of a CSV with one line of names."""
        rows = np.loadtxt(root, delimiter=",", skiprows=1)
        return rows[:, :-1], rows[:, -1].astype(int)

    def scaled(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return measurements with about mean 0 and spread 1."""
        return (inputs - inputs.new_tensor(MEAN)) / inputs.new_tensor(SPREAD)

    def model(self, conf: object) -> nn.Module:
        """Return a network of one hidden layer."""
        return nn.Sequential(nn.Linear(13, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 3))

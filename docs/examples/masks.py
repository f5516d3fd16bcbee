"""Which pixels of an image show a disc: an .npz of images (n, 16, 16) and masks of their size.

meadow simulate task.target=masks.py:Discs data=iid data.root=masks.npz
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

import meadow


class Discs(meadow.Segmentation):
    """Grey images; each pixel is ground or disc."""

    contract = meadow.Contract((1, 16, 16), classes=("ground", "disc"), dense=True)

    def __init__(self, channels: int = 8) -> None:
        self.channels = channels

    def read(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return `images` and `masks` of the file."""
        with np.load(root, allow_pickle=False) as arrays:
            return arrays["images"], arrays["masks"]

    def model(self, conf: object) -> nn.Module:
        """Return two convolutions that keep the size."""
        return nn.Sequential(
            nn.Conv2d(1, self.channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.channels, 2, 1),
        )

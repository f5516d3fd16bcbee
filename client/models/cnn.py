"""The CNN of NIID-Bench (Li et al. 2022, arXiv 2102.02079, section V): LeNet-5's layout with ReLU
and max-pooling.
"""

from __future__ import annotations

from torch import nn

from client.models.base import image, unfit
from client.pooling import MaxPool2
from client.tasks.base import Contract


def build(contract: Contract) -> nn.Module:
    """Return two 5 x 5 convolutions (6, 16 channels), each max-pooled by 2, then 120, 84 and one
    unit an output.

    Exactly as published from 16 x 16 pixels on (44,426 parameters for MNIST); smaller images are
    padded, since two 5 x 5 convolutions would leave nothing of them. Raises DataError MDW-207 below
    4 x 4, and for examples that are no images.
    """
    channels, height, width = image(contract, "cnn")
    if min(height, width) < 4:
        raise unfit(
            f"model=cnn needs 4 x 4 pixels, the task has {height} x {width}", "Use model=mlp."
        )
    padding = 0 if min(height, width) >= 16 else 2
    left = [_pooled(_pooled(side, padding), padding) for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding),
        nn.ReLU(),
        MaxPool2(),
        nn.Conv2d(6, 16, 5, padding=padding),
        nn.ReLU(),
        MaxPool2(),
        nn.Flatten(),
        nn.Linear(16 * left[0] * left[1], 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, contract.outputs),
    )


def _pooled(side: int, padding: int) -> int:
    return (side + 2 * padding - 4) // 2

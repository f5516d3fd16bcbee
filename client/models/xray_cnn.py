"""The CNN of the Azure ML federated-learning accelerator's pneumonia example: three convolutions and
two linear layers (25,783,554 parameters for grey images of 224 x 224 and two classes).
"""

from __future__ import annotations

from torch import nn

from client.models.base import image, unfit
from client.pooling import MaxPool2
from client.tasks.base import Contract

LEAST: int = 8
"""Pixels a side: each of three poolings halves them."""


def build(contract: Contract) -> nn.Module:
    """Return 3 x 3 convolutions of 32, 64 and 128 channels, each with ReLU and a max-pooling by 2,
    dropout of .2 after the second and third, then 256 units and one an output.

    Raises DataError MDW-207 below 8 x 8, and for examples that are no images.
    """
    channels, height, width = image(contract, "xray_cnn")
    if min(height, width) < LEAST:
        what = f"model=xray_cnn needs {LEAST} x {LEAST} pixels, the task has {height} x {width}"
        raise unfit(what, "Use model=cnn or mlp.")
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        MaxPool2(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        MaxPool2(),
        nn.Dropout(0.2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        MaxPool2(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(128 * (height // 8) * (width // 8), 256),
        nn.ReLU(),
        nn.Linear(256, contract.outputs),
    )

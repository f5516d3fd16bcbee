"""A linear model: logistic regression of classes, linear regression of numbers."""

from __future__ import annotations

from torch import nn

from client.models.base import features
from client.tasks.base import Contract


def build(contract: Contract) -> nn.Module:
    """Return one linear layer with a unit an output, its weights 0 at first: the loss is convex, and
    nothing is gained by drawing them.

    Examples of any shape are taken as rows. Raises DataError MDW-207 where their shape varies.
    """
    layer = nn.Linear(features(contract, "linear"), contract.outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)

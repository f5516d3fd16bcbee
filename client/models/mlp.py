"""A multilayer perceptron with ReLU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from client.models.base import features
from client.tasks.base import Contract


def build(contract: Contract, hidden: Sequence[int] = (64,)) -> nn.Module:
    """Return `hidden` layers of the given units, then one unit an output; no hidden layer is
    logistic (or linear) regression.

    Examples of any shape are taken as rows. Raises DataError MDW-207 where their shape varies.
    """
    width = features(contract, "mlp")
    layers: list[nn.Module] = [nn.Flatten()]
    for units, following in itertools.pairwise([width, *hidden]):
        layers += [nn.Linear(units, following), nn.ReLU()]
    last = hidden[-1] if hidden else width
    return nn.Sequential(*layers, nn.Linear(last, contract.outputs))

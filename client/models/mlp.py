"""A multilayer perceptron with ReLU."""

from __future__ import annotations

import itertools
import math

from torch import nn

from client.tasks.base import Contract
from conf.schema import MlpConf, ModelConf


def build(conf: ModelConf, contract: Contract) -> nn.Module:
    """Return `hidden` layers of the given units, then one unit a class; no hidden layer is logistic
    regression.
    """
    hidden = conf.hidden if isinstance(conf, MlpConf) else MlpConf().hidden
    layers: list[nn.Module] = [nn.Flatten()]
    for units, following in itertools.pairwise([math.prod(contract.shape), *hidden]):
        layers += [nn.Linear(units, following), nn.ReLU()]
    last = hidden[-1] if hidden else math.prod(contract.shape)
    return nn.Sequential(*layers, nn.Linear(last, len(contract.classes)))

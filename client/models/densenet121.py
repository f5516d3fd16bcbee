"""DenseNet-121 (Huang et al. 2017, arXiv 1608.06993)."""

from __future__ import annotations

from torch import nn

from client.tasks.base import Contract
from client.vision import Norm, network


def build(contract: Contract, norm: Norm = "group") -> nn.Module:
    """Return torchvision's DenseNet-121 for the task's channels and outputs; see `client.vision.network`."""
    return network(contract, "densenet121", norm)

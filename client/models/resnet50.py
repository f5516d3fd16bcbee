"""ResNet-50 (He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from torch import nn

from client.tasks.base import Contract
from client.vision import Norm, network


def build(contract: Contract, norm: Norm = "group") -> nn.Module:
    """Return torchvision's ResNet-50 for the task's channels and outputs; see `client.vision.network`."""
    return network(contract, "resnet50", norm)

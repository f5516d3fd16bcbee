"""EfficientNet-B0 (Tan & Le 2019, arXiv 1905.11946)."""

from __future__ import annotations

from torch import nn

from client.tasks.base import Contract
from client.vision import Norm, network


def build(contract: Contract, norm: Norm = "group") -> nn.Module:
    """Return torchvision's EfficientNet-B0 for the task's channels and outputs; see `client.vision.network`."""
    return network(contract, "efficientnet_b0", norm)

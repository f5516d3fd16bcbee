"""torchvision's networks for a task's images: any number of channels, and a normalisation that suits a
federation.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from client.models.base import image
from client.tasks.base import Contract

Norm = Literal["batch", "group", "frozen"]
GROUPS = 32
"""Of group normalisation (Wu & He 2018, arXiv 1803.08494), or the largest divisor of fewer."""


def network(contract: Contract, name: str, norm: Norm = "group", **settings: object) -> nn.Module:
    """Return torchvision's network of that name for the task's channels and outputs.

    `norm=group` has no running statistics: nothing but weights travels. `batch` keeps torchvision's
    own, whose running statistics travel; `frozen` keeps them as they are in the weights that the
    run starts from. Raises DataError MDW-207 for examples that are no images.
    """
    from torchvision.models import get_model  # seconds to import: only where it is used

    channels, _, _ = image(contract, name)
    model: nn.Module = get_model(name, weights=None, num_classes=contract.outputs, **settings)
    _take_channels(model, channels)
    if norm != "batch":
        _replace_norms(model, norm)
    return model


def _take_channels(model: nn.Module, channels: int) -> None:
    """Give the first convolution as many channels as the images have."""
    if channels == 3:
        return
    path, first = next(
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)
    )
    made = nn.Conv2d(
        channels,
        first.out_channels,
        _pair(first.kernel_size),
        _pair(first.stride),
        _pair_or_text(first.padding),
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    _put(model, path, made)


def _replace_norms(model: nn.Module, norm: Norm) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for path, layer in layers:
        features = layer.num_features
        if norm == "frozen":
            _put(model, path, FrozenBatchNorm2d(features, layer.eps))
        else:
            _put(model, path, nn.GroupNorm(math.gcd(GROUPS, features), features))


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    above, _, name = path.rpartition(".")
    setattr(model.get_submodule(above), name, layer)


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    height, width = sides
    return height, width


def _pair_or_text(padding: str | tuple[int, ...]) -> str | tuple[int, int]:
    return padding if isinstance(padding, str) else _pair(padding)

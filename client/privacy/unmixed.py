"""What a model may not do while it trains privately: let one example reach what is not its own
gradient.

A clipped gradient bounds what an example moves, if nothing else carries it. A batch normalisation
mixes the examples of a batch, with weights to train or without; an embedding with `max_norm` writes to
its weights whatever it looks up; a buffer that follows the examples reaches the gradients of all later
ones. Layers are known before the training; what a layer of one's own writes shows when it is done.
That a model computes each example by itself can't be seen from here.

    MDW-372 a layer that mixes examples or writes to weights, or of which Opacus has another gradient
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from conf.errors import SiloError

CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_layers(model: nn.Module) -> None:
    """Raise SiloError MDW-372 for a model in training mode that has a layer which can't be there."""
    for name, layer in model.named_modules():
        why = _fault(layer)
        if why:
            raise unfit(f"{name or 'its layer'} ({type(layer).__name__}) {why}")


def _fault(layer: nn.Module) -> str:
    """Return what is wrong with a layer."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
        return "mixes the examples of a batch, also where it has no weights to train"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
        return "has max_norm, which changes the weights of what it looks up, without noise"
    trains = any(weight.requires_grad for weight in layer.parameters(recurse=False))
    if isinstance(layer, CONVOLUTIONS) and layer.padding_mode != "zeros" and trains:
        return f"has padding_mode={layer.padding_mode}, of which only zeros is known"
    return ""


class Untouched:
    """The weights and buffers of a model as a pass finds them."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self._versions: dict[str, int] = {}

    def look(self) -> None:
        """Note the weights before a pass: torch counts what is written to them."""
        self._versions = self._written()

    def check(self) -> None:
        """Put the buffers back after a pass; raise SiloError MDW-372 where it wrote to a weight."""
        self.put_back()
        found = self._written()
        changed = sorted(n for n in found if found[n] != self._versions.get(n))
        if changed:
            raise unfit(f"it writes to its weight {changed[0]} while it computes, without noise")

    def put_back(self) -> None:
        """Give the buffers the values that they had at first."""
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                if name not in self._buffers:
                    raise unfit(f"it makes a buffer {name} while it computes")
                buffer.copy_(self._buffers[name])

    def _written(self) -> dict[str, int]:
        return {name: _version(weight) for name, weight in self._model.named_parameters()}


def unfit(why: str) -> SiloError:
    """Return the error for a model that has no gradient of each example."""
    reason = " ".join(why.split())[:300]
    return SiloError(
        "MDW-372",
        f"This model can't be trained with privacy=sample_dp: {reason}.",
        "Write the model without it, or choose another: model=cnn, mlp, linear, or model.norm=group.",
    )


def _version(weight: Tensor) -> int:
    return int(weight._version)

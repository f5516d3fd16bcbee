"""A silo's change of the model, of a norm that is bounded: what silo-level and local privacy rest on.

The change is that of all parameters that leave the silo, as one vector (McMahan et al. 2018, arXiv
1710.06963, "flat clipping"). Buffers depend on data and have no such bound: they go back to what
they were. So does every parameter where a change is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from strategies.silo_half import SiloHalf, belongs

MARGIN: Final = 2.0**-10
"""Below the norm that is asked for, so that neither rounding nor `salt` carries a change beyond it."""
TRIES: Final = 8
"""Of rounding a change, each smaller than the one before; of the last one nothing is left."""


@dataclass(frozen=True)
class Start:
    """The arrays of a model before a silo trains it."""

    buffers: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    """Those that leave the silo."""

    @staticmethod
    def of(model: nn.Module, half: SiloHalf) -> Start:
        """Return copies of what a model holds."""
        buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        parameters = {
            n: p.detach().clone() for n, p in model.named_parameters() if not belongs(n, half.keeps)
        }
        return Start(buffers, parameters)


@torch.no_grad()
def clip(model: nn.Module, start: Start, norm: float) -> bool:
    """Make what a trained model differs from its start no longer than `norm`, in place; return
    whether it was that short.
    """
    for name, buffer in model.named_buffers():
        buffer.copy_(start.buffers[name])
    own = dict(model.named_parameters())
    changes = {name: own[name].detach() - before for name, before in start.parameters.items()}
    length = _norm(changes)
    within = length <= norm
    target = norm * (1 - MARGIN)
    factor = min(1.0, target / length) if 0 < length < math.inf else 0.0
    for _ in range(TRIES):
        for name, before in start.parameters.items():
            own[name].copy_(before + changes[name] * factor if factor else before)
        # What leaves is the model, whose weights have been rounded.
        rounded = _norm({n: own[n].detach() - before for n, before in start.parameters.items()})
        if rounded <= target + norm * MARGIN / 4:
            return within
        factor *= min(target / rounded, 0.5)
    for name, before in start.parameters.items():
        own[name].copy_(before)
    return within


@torch.no_grad()
def salt(model: nn.Module, start: Start, norm: float, generator: torch.Generator) -> None:
    """Move each parameter that leaves by a random trifle, within the margin below `norm`, in place.

    An update's digest stands in the run's ledger, whose head all silos hear. Of an update without
    noise of its own, whoever guesses a silo's data could train on the guess and compare digests.
    """
    own = dict(model.named_parameters())
    weights = sum(own[name].numel() for name in start.parameters)
    reach = norm * MARGIN / 2 / math.sqrt(max(weights, 1))
    for name in start.parameters:
        weight = own[name]
        trifle = torch.empty(weight.shape, device=weight.device, dtype=torch.float32)
        trifle.uniform_(-reach, reach, generator=generator)
        weight.add_(trifle.to(weight.dtype))


@torch.no_grad()
def add_noise(model: nn.Module, start: Start, deviation: float, generator: torch.Generator) -> None:
    """Add Gaussian noise to each parameter that leaves the silo, in place."""
    own = dict(model.named_parameters())
    for name in start.parameters:
        weight = own[name]
        noise = torch.empty(weight.shape, device=weight.device, dtype=torch.float32)
        noise.normal_(0.0, deviation, generator=generator)
        weight.add_(noise.to(weight.dtype))


def _norm(changes: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of all arrays together; not finite where one of their values is not."""
    squares = [float(change.to(torch.float64).square().sum()) for change in changes.values()]
    return math.sqrt(sum(squares)) if all(map(math.isfinite, squares)) else math.inf

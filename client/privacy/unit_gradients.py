"""The gradient of each unit of a part of a draw, clipped and added up.

With `privacy.gradients=hooks` the gradients of examples come from Opacus, by hooks that hold them in
`grad_sample`, and its optimizers clip them; that of a group is the mean of its examples'
(`client.privacy.privacy_unit`). `ghost` has the clipped sum without them (`client.privacy.ghost_gradients`).

    MDW-372 a model of which no such gradients can be had     MDW-374 one of which ghost can't
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from client.optimizer import optimizer_of
from client.privacy.accountant import needed
from client.privacy.ghost_gradients import Ghost, check_layers
from client.privacy.sampling import Part
from client.privacy.unmixed import unfit
from conf.errors import SiloError
from conf.schema import SampleDpConf, TrainerConf

GHOST: Final = "ghost"


class UnitGradients(Protocol):
    """A way to the gradients of units, from the losses of their examples."""

    def take(self, losses: Tensor, part: Part) -> None:
        """Put what a part's units give into the weights, for the optimizer to add to the sum."""

    def take_none(self) -> None:
        """Put there that no unit was drawn."""

    def close(self) -> None:
        """Leave the model's layers as they were."""


def check_ghost(model: nn.Module, asked: SampleDpConf) -> None:
    """Raise SiloError MDW-374 where a model can't be trained by `privacy.gradients=ghost`."""
    if asked.gradients != GHOST:
        return
    if asked.clipping == "per_layer":
        what = "privacy.clipping=per_layer needs the gradient of each example,"
        hint = "Take privacy.clipping=flat, or privacy.gradients=hooks."
        raise SiloError("MDW-374", f"{what} which privacy.gradients=ghost does not hold.", hint)
    check_layers(model)


def optimizer_for(
    model: nn.Module,
    trainer: TrainerConf,
    asked: SampleDpConf,
    noise: float,
    batch: int,
    generator: torch.Generator,
) -> Any:
    """Return what clips the gradients of units, adds them up, adds the noise and divides by `batch`."""
    optimizers = needed("opacus.optimizers")
    per_layer = asked.clipping == "per_layer"
    kind = optimizers.DPPerLayerOptimizer if per_layer else optimizers.DPOptimizer
    if asked.gradients == GHOST:
        # What it finds in the weights is clipped.
        kind = optimizers.DPOptimizerFastGradientClipping
    count = sum(weight.requires_grad for weight in model.parameters())
    # Each layer gets its part of the norm, so that the whole is bounded by clip_norm as well.
    clip = [asked.clip_norm / count**0.5] * count
    return kind(
        optimizer_of(model, trainer),
        noise_multiplier=noise,
        max_grad_norm=clip if per_layer else asked.clip_norm,
        expected_batch_size=batch,
        loss_reduction="mean",
        generator=generator,
    )


@contextmanager
def unit_gradients(model: nn.Module, asked: SampleDpConf) -> Iterator[UnitGradients]:
    """Yield a way to the gradients of units of a model, which stays as it is."""
    ghost = asked.gradients == GHOST
    gradients: UnitGradients = Ghost(model, asked.clip_norm) if ghost else Held(model)
    # What a layer changes in place is no output that a hook could look at.
    in_place = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]  # a flag of torch's own layers
    try:
        yield gradients
    finally:
        gradients.close()
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
        for weight in model.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample"):
                if hasattr(weight, name):
                    delattr(weight, name)
            weight.grad = None


class Held:
    """The gradients of all examples of a part are held at once, for all weights."""

    def __init__(self, model: nn.Module) -> None:
        """Raises SiloError MDW-372."""
        # A batch needs no gradient itself, as its hooks warn at each step.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        try:
            self._hooks = needed("opacus.grad_sample").GradSampleHooks(model, loss_reduction="sum")
        except (NotImplementedError, ValueError) as error:
            raise unfit(str(error)) from error
        self._model = model
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]

    def close(self) -> None:
        """See `UnitGradients`."""
        self._hooks.cleanup()

    def take(self, losses: Tensor, part: Part) -> None:
        """See `UnitGradients`."""
        losses.sum().backward()
        _check_gradients(self._model, len(part.examples))
        for weight in self._weights:
            held = _finite(weight.grad_sample)  # type: ignore[attr-defined]  # of Opacus' hooks
            if part.unit is not None:
                held = _finite(_means(held, part.unit, part.units))
            weight.grad_sample = held  # type: ignore[attr-defined]

    def take_none(self) -> None:
        """See `UnitGradients`."""
        for weight in self._weights:
            weight.grad_sample = weight.new_zeros((0, *weight.shape))  # type: ignore[attr-defined]


def _finite(gradients: Tensor) -> Tensor:
    """Put 0 where gradients are not finite: what has no norm to be clipped to counts as none."""
    return torch.nan_to_num_(gradients, 0.0, 0.0, 0.0)


def _means(gradients: Tensor, unit: Tensor, units: int) -> Tensor:
    """Return the mean of each unit's gradients; they are divided in place."""
    unit = unit.to(gradients.device)
    sizes = torch.bincount(unit, minlength=units).to(gradients.dtype)
    each = (-1, *[1] * (gradients.dim() - 1))
    gradients /= sizes[unit].view(each)
    return gradients.new_zeros((units, *gradients.shape[1:])).index_add_(0, unit, gradients)


def _check_gradients(model: nn.Module, examples: int) -> None:
    """Raise SiloError MDW-372 where a weight has not got a gradient for each example."""
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        found = getattr(weight, "grad_sample", None)
        if found is None or len(found) != examples:
            raise unfit(f"{name} has no gradient of each example")

"""One optimizer step after another: gradients of a group of batches, the algorithm's own changes to
them, clipping, the step.

A step is taken again, with the same draws, where the device's memory was full at first, and where
fp16 overflowed (`client.loss_scale`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from client.batches import Batch
from client.compiled import as_written, next_step
from client.device_failures import with_room
from client.loss_scale import SMALLEST, LossScale
from client.tasks.base import Task
from client.undo import Undo
from conf.schema import TrainerConf
from strategies.silo_half import SiloHalf


@dataclass
class Computes:
    """What a silo's loop knows of outputs and losses."""

    task: Task
    conf: TrainerConf
    half: SiloHalf
    device: torch.device
    forward: Callable[[nn.Module, Batch], Any]
    """The task's output of a model for a batch, in the trainer's precision."""
    precision: Callable[[], AbstractContextManager[object]]
    """The context of the trainer's precision, anew each time."""


@dataclass(frozen=True)
class Step:
    """What became of a step."""

    size: int
    """What the task's size counts in its batches."""
    taken: bool
    """Whether the weights moved: not where fp16 overflows at any scale."""


class Steps:
    """The steps of one pass over a model."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        weights: Sequence[nn.Parameter],
        scale: LossScale,
        computes: Computes,
    ) -> None:
        self.loss_sum = torch.zeros((), device=computes.device)
        """The task's loss, summed over all that the size counts in the steps that were taken."""
        self._model = model
        self._optimizer = optimizer
        self._weights = weights
        self._scale = scale
        self._computes = computes
        self._undo = Undo(model, computes.device)
        self._in_vain = False
        self._odd: int | None = None
        # A round that failed half way may have left gradients behind.
        optimizer.zero_grad()

    def take(self, group: list[Batch], *, odd_last: bool = False) -> Step:
        """Take one step on a group of batches as if they were one.

        `odd_last`: its last batch has a size of its own, and is not worth compiling for.
        """
        self._odd = len(group) - 1 if odd_last else None
        computes = self._computes
        sizes = [computes.task.size(batch) for batch in group]
        self._undo.mark()
        taken, losses = self._tried(group, sizes)
        if not taken and not self._in_vain:
            taken, losses = self._with_smaller_scales(group, sizes)
        if taken:
            for loss, size in zip(losses, sizes, strict=True):
                self.loss_sum.add_(loss, alpha=size)
        return Step(sum(sizes), taken)

    def _with_smaller_scales(
        self, group: list[Batch], sizes: list[int]
    ) -> tuple[bool, list[Tensor]]:
        """Take a step that overflowed again, each time with half of the scale."""
        overflowed_at = self._scale.value * 2
        while self._scale.value >= SMALLEST:
            self._undo.back()
            taken, losses = self._tried(group, sizes)
            if taken:
                return True, losses
        # It was not for the scale: what is not finite is in the batch or in the weights.
        self._scale.renew(overflowed_at)
        self._in_vain = True
        return False, []

    def _tried(self, group: list[Batch], sizes: list[int]) -> tuple[bool, list[Tensor]]:
        """Return whether the weights moved, and the loss of each batch."""
        device = self._computes.device
        losses = with_room(device, lambda: self._gradients(group, sizes), self._give_up)
        # Nothing has moved where the step's own memory was not to be had: it is asked for first.
        taken = with_room(device, lambda: self._scale.step(self._optimizer))
        self._optimizer.zero_grad()
        return taken, losses

    def _give_up(self) -> None:
        """Be where the step began."""
        self._optimizer.zero_grad()
        self._scale.renew()
        self._undo.back()

    def _gradients(self, group: list[Batch], sizes: list[int]) -> list[Tensor]:
        """Add up the gradients of the batches, ready for the step; return the batches' losses."""
        whole = sum(sizes)
        losses = []
        next_step(self._computes.conf)
        for number, (batch, size) in enumerate(zip(group, sizes, strict=True)):
            with as_written(number == self._odd, self._computes.conf):
                task_loss, loss = self._loss(batch)
            # The mean over the group is the mean of its batches, each by its share of the whole.
            share = loss if len(group) == 1 else loss * (size / max(whole, 1))
            torch.autograd.backward(self._scale.scaled(share))
            losses.append(task_loss.detach())
        # What follows works on the gradients themselves: fp16's scale goes first.
        self._scale.unscale(self._optimizer)
        self._computes.half.gradients(self._weights)
        clip_norm = self._computes.conf.clip_norm
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(self._weights, clip_norm)
        return losses

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the task's loss of a batch, and the one that is minimised."""
        computes = self._computes
        output = computes.half.output(computes.forward(self._model, batch), batch)
        with computes.precision():
            task_loss = computes.task.loss(output, batch)
            return task_loss, computes.half.loss(task_loss, self._model, batch)

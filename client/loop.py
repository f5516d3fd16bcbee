"""The training of one round at a silo, and the evaluation of a model there, in plain PyTorch."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from client import sums
from client.batches import Batch, Batches
from client.device import autocast, choose, device_of, reproducible, scaler
from client.optimizer import learning_rate, optimizer_of, set_learning_rate
from client.sums import Metrics, Sums
from client.tasks.base import Task
from client.trees import map_tensors
from conf.errors import DataError
from conf.schema import TrainerConf
from strategies.wire import protocol


def prepare(model: nn.Module, conf: TrainerConf, device: str | None = None) -> nn.Module:
    """Return the model on its device, compiled if the trainer says so.

    `device` is the silo's own choice; without one the trainer's is taken.
    """
    model.to(choose(device or conf.device))
    if conf.channels_last:
        model.to(memory_format=torch.channels_last)
    if conf.compile:
        model.compile()
    return model


def train(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    conf: TrainerConf,
    *,
    seed: int,
    round: int = 1,
    rounds: int = 1,
    proximal_mu: float = 0.0,
) -> Metrics:
    """Train a model in place for the epochs of one round of `rounds`; return what it took.

    The same `seed` and weights give the same bits on the same device and threads. With
    `proximal_mu` the loss gets mu/2 ||w - w_t||^2, w_t being the weights at the start (Li et al.
    2020, arXiv 1812.06127, eq. 2). The metrics are the mean training loss (without that term; over
    what `task.size` counts), examples in the set, seconds and examples a second.
    Raises DataError MDW-205 where there is too little to train on.
    """
    started = time.perf_counter()
    device = device_of(model)
    batch_norm = any(isinstance(m, _BatchNorm) for m in model.modules())
    batches = Batches(
        dataset,
        conf.batch_size,
        device,
        conf,
        seed=seed,
        pairs=batch_norm,
        collate=task.collate,
    )
    # BatchNorm can't train on one example: it has no variance.
    needed = 2 if batch_norm else 1
    if batches.examples < needed:
        raise _too_few(batches.examples)
    optimizer = optimizer_of(model, conf)
    scale = scaler(device, conf)
    precision = autocast(device, conf)
    weights = [p for p in model.parameters() if p.requires_grad]
    start = [w.detach().clone() for w in weights] if proximal_mu else []
    steps = conf.epochs * math.ceil(len(batches) / conf.accumulate)
    step = 0
    size = 0
    loss_sum = torch.zeros((), device=device)
    model.train()
    # A round that failed half way may have left gradients behind.
    optimizer.zero_grad()
    with reproducible(device, seed, conf):
        for _ in range(conf.epochs):
            supply = iter(batches)
            while group := list(islice(supply, conf.accumulate)):
                progress = (round - 1 + step / steps) / rounds
                set_learning_rate(optimizer, learning_rate(conf, progress))
                size += _backward(model, group, task, precision, scale, loss_sum)
                # What follows works on the gradients themselves: fp16's scale goes first.
                scale.unscale_(optimizer)
                for weight, origin in zip(weights, start, strict=False):
                    _pull(weight, origin, proximal_mu)
                if conf.clip_norm is not None:
                    nn.utils.clip_grad_norm_(weights, conf.clip_norm)
                scale.step(optimizer)
                scale.update()
                optimizer.zero_grad()
                step += 1
    # `item` waits for the GPU, so the seconds are taken after it.
    loss = loss_sum.item() / size
    seen = batches.examples * conf.epochs
    return {protocol.LOSS: loss, **_cost(batches.examples, seen, started)}


@dataclass(frozen=True)
class Evaluation:
    """A model on a split: its sums (`client.sums`), empty without examples, and what it took."""

    sums: Sums
    examples: int
    seconds: float

    @property
    def cost(self) -> Metrics:
        """The examples and seconds, by the names of the wire."""
        if self.examples == 0:
            return {protocol.NUM_EXAMPLES: 0}
        return {
            protocol.NUM_EXAMPLES: self.examples,
            protocol.SECONDS: self.seconds,
            protocol.SAMPLES_PER_SECOND: self.examples / self.seconds,
        }


def evaluate(model: nn.Module, dataset: Dataset[Any], task: Task, conf: TrainerConf) -> Evaluation:
    """Return the sums of a model over a set; no output is kept, so memory does not grow with it.

    Raises DataError MDW-208 where the task's sums are not what they must be.
    """
    started = time.perf_counter()
    device = device_of(model)
    precision = autocast(device, conf)
    total: Sums = {}
    batches = Batches(dataset, conf.eval_batch_size, device, conf, collate=task.collate)
    if not batches.examples:
        return Evaluation({}, 0, 0.0)
    model.eval()
    with reproducible(device, 0, conf), torch.inference_mode():
        for batch in batches:
            with precision:
                output = map_tensors(_full_precision, task.output(model, batch))
            sums.add(total, sums.of_batch(task, output, batch))
    return Evaluation(total, batches.examples, time.perf_counter() - started)


def _backward(
    model: nn.Module,
    group: list[Batch],
    task: Task,
    precision: AbstractContextManager[object],
    scale: torch.amp.GradScaler,
    loss_sum: Tensor,
) -> int:
    """Add up the gradients of a group of batches as if they were one; return the group's size.

    `loss_sum` grows by the loss of all that the size counts.
    """
    sizes = [task.size(batch) for batch in group]
    whole = sum(sizes)
    for batch, size in zip(group, sizes, strict=True):
        with precision:
            output = map_tensors(_full_precision, task.output(model, batch))
            loss = task.loss(output, batch)
        # The mean over the group is the mean of its batches, each by its share of the whole.
        share = loss if len(group) == 1 else loss * (size / whole)
        torch.autograd.backward(scale.scale(share))
        loss_sum.add_(loss.detach(), alpha=size)
    return whole


def _full_precision(tensor: Tensor) -> Tensor:
    """Losses are taken in float32, whatever the model computed in."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _pull(weight: nn.Parameter, origin: Tensor, mu: float) -> None:
    """Add the gradient of mu/2 ||w - w_t||^2, which is mu (w - w_t).

    Written out, because automatic differentiation of the term costs more.
    """
    if weight.grad is not None:
        weight.grad.add_(weight.detach() - origin, alpha=mu)


def _cost(examples: int, seen: int, started: float) -> Metrics:
    seconds = time.perf_counter() - started
    return {
        protocol.NUM_EXAMPLES: examples,
        protocol.SECONDS: seconds,
        protocol.SAMPLES_PER_SECOND: seen / seconds,
    }


def _too_few(examples: int) -> DataError:
    if examples == 0:
        what = "0 examples are too few to train on."
        return DataError("MDW-205", what, "Give the silo more examples.")
    what = f"{examples} examples are too few to train on: BatchNorm needs two."
    return DataError("MDW-205", what, "Give the silo more examples, or use group normalisation.")

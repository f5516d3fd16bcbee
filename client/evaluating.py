"""The evaluation of a model at a silo: its sums over a split, in the precision of scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from client import sums, wanted
from client.batches import Batch, Batches
from client.compiled import OFF, as_written, made_ready, next_step
from client.device import autocast, device_of, for_scores, full_precision, reproducible
from client.device_failures import told, with_room
from client.randomness import torch_alone
from client.sums import Metrics, Sums
from client.tasks.base import Task
from client.trees import map_tensors
from conf.schema import TrainerConf
from strategies.wire import protocol

Bound = Callable[[Sums], Sums]
"""What is kept of the sums of one example."""


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


def evaluate(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    conf: TrainerConf,
    each: Bound | None = None,
) -> Evaluation:
    """Return the sums of a model over a set; no output is kept, so memory does not grow with it.

    With `each` every example is evaluated alone, whatever the task makes of a batch, and what `each`
    makes of its sums is added up. Raises DataError: MDW-208 where the task's sums are not what they
    must be, MDW-225 to 227 where the device fails.
    """
    with told(conf.eval_batch_size):
        return _evaluated(model, dataset, task, conf, each)


def _evaluated(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    conf: TrainerConf,
    each: Bound | None,
) -> Evaluation:
    started = time.perf_counter()
    device = device_of(model)
    if each is not None:
        conf = replace(conf, eval_batch_size=1)
    conf = for_scores(conf, device)
    batches = Batches(dataset, conf.eval_batch_size, device, conf, collate=task.collate)
    if not batches.examples:
        return Evaluation({}, 0, 0.0)

    def of(batch: Batch, odd: bool = False) -> Sums:
        next_step(conf)
        with autocast(device, conf), as_written(odd, conf):
            output = map_tensors(full_precision, task.output(model, batch))
        made = sums.of_batch(task, output, batch)
        return made if each is None else each(made)

    total: Sums = {}
    model.eval()
    beside = not torch_alone(model, task)
    with reproducible(device, 0, conf, all_generators=beside), torch.inference_mode():
        if conf.compile != OFF:
            shapes = ("evaluation", batches.sizes[0], conf.precision, conf.deterministic)
            started += made_ready(model, conf, shapes, lambda: batches.try_first(of))
        for number, batch in enumerate(batches, 1):
            wanted.check()
            odd = batches.odd_last and number == len(batches)
            sums.add(total, with_room(device, partial(of, batch, odd)))
    return Evaluation(total, batches.examples, time.perf_counter() - started)

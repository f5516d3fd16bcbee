"""Sums of a split, which add up over batches and silos, and the metrics that are made of them.

A mean over silos of F1, of RMSE or of any other metric that is not itself a mean is not the metric
of all examples. Sums are: a confusion matrix of the union is the sum of the silos' matrices. So
what a silo reports of an evaluation is sums, and one function of the task, the same at the silo, at
the server and in every table, makes metrics of them.

Counts are int64 and exact. Real numbers are float64, folded in a fixed order (batches in the order
of the set, silos in the order of their names), so that the same evaluation gives the same bits.

    MDW-208 sums that are not as declared    MDW-209 a metric that is not a number
    MDW-215 a metric that is shown and not there
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from client.tasks.base import SumSpec, Task
from conf.errors import DataError
from strategies.wire import protocol

Sums = dict[str, Tensor]
"""By name: int64 or float64 on the CPU, of any shape that does not depend on the examples."""
Metrics = dict[str, float]
TAKEN: Final = (
    protocol.LOSS,
    protocol.NUM_EXAMPLES,
    *protocol.OF_THE_MACHINE,
    protocol.WITHHELD,
)
"""Names of metrics that Meadow gives itself."""

LOSS: Final = protocol.LOSS
"""The sum of the loss, in float64: each batch's mean times what it is a mean over."""
SIZE: Final = "size"
"""What the loss is a mean over, summed: examples, tokens, pixels (`Task.size`)."""
LARGEST_SIZE: Final = 2**53
"""Sizes stay below this, so that float64 holds each of them exactly."""


def specs_of(task: Task) -> dict[str, SumSpec]:
    """Return the form of all sums of an evaluation: the loss, its size, and the task's own.

    Raises DataError MDW-208 where the task gives a name of these two to a sum of its own.
    """
    low, high = _loss_range(task)
    specs = {
        LOSS: SumSpec(real=True, low=low, high=high),
        SIZE: SumSpec(high=1.0),
    }
    for name, spec in task.sum_specs().items():
        if name in specs:
            raise _unfit(task, f"{name!r} is a sum that each evaluation has already")
        specs[name] = spec
    return specs


def _loss_range(task: Task) -> tuple[float, float]:
    """Return between what a task's loss can lie; a loss of its own needs a range of its own."""
    for kind in type(task).__mro__:
        if "loss_range" in vars(kind):
            return task.loss_range
        if "loss" in vars(kind):
            break
    return -math.inf, math.inf


def of_batch(task: Task, output: Any, batch: Any) -> Sums:
    """Return one batch's sums: the loss, its size, and the task's own.

    Raises DataError MDW-208 for names, shapes or types other than those declared.
    """
    size = task.size(batch)
    loss = task.loss(output, batch).detach().double().cpu() * size
    sums = {LOSS: loss, SIZE: torch.tensor(size)}
    given = task.sums(output, batch)
    declared = task.sum_specs()
    if given.keys() != declared.keys():
        names = sorted(given.keys() ^ declared.keys())
        raise _unfit(task, f"{names[0]!r} is in `sums` or in `sum_specs`, not in both")
    for name, value in given.items():
        sums[name] = _as_sum(task, name, value, declared[name])
    return sums


def add(total: Sums, more: Mapping[str, Tensor]) -> None:
    """Add sums to `total`, in place; a name that is not in it yet is put there.

    Raises ValueError for another shape or type, which would be broadcast or rounded silently.
    """
    for name, value in more.items():
        if name not in total:
            total[name] = value.clone()
            continue
        before = total[name]
        if (before.shape, before.dtype) != (value.shape, value.dtype):
            raise ValueError(f"the sum {name!r} changed its shape or type")
        before += value


def folded(parts: Iterable[Mapping[str, Tensor]]) -> Sums:
    """Return the sums of several parts, added in the order in which they are given."""
    total: Sums = {}
    for part in parts:
        add(total, part)
    return total


class Union:
    """The sums of several silos, added up as they arrive, whatever their order.

    Counts are added at once: that is exact. Real sums round when they are added, so they are kept
    by silo and added in the order of the names. What is held is the counts once, and a few numbers
    a silo: not each silo's histograms.
    """

    def __init__(self) -> None:
        self._counts: Sums = {}
        self._real: dict[str, Sums] = {}

    def add(self, silo: str, sums: Mapping[str, Tensor]) -> None:
        """Add a silo's sums; raises ValueError as `add` does."""
        real = {name for name, value in sums.items() if value.is_floating_point()}
        add(self._counts, {name: value for name, value in sums.items() if name not in real})
        self._real[silo] = {name: sums[name] for name in real}

    def total(self) -> Sums:
        """Return the sums of all silos; empty without any."""
        return self._counts | folded(self._real[silo] for silo in sorted(self._real))


def metrics_of(task: Task, sums: Mapping[str, Tensor]) -> Metrics:
    """Return the loss and the task's metrics that sums give; nothing where they are of no example.

    Where the task's `metrics` divides by a 0 among the sums (recall without a positive) all of its
    metrics are undefined: NaN. Raises DataError MDW-209 for a metric that is not a number, by its name,
    and whatever else the task's `metrics` raises.
    """
    size = int(sums[SIZE]) if SIZE in sums else 0
    if size == 0:
        return {}
    metrics = {LOSS: float(sums[LOSS]) / size}
    for name, value in _made(task, sums).items():
        if name in TAKEN:
            raise _not_a_metric(task, f"{name!r} is the name of something else")
        metrics[name] = _as_number(task, name, value)
    return metrics


def check_shown(task: Task, metrics: Metrics) -> None:
    """Raise DataError MDW-215 where a task shows a metric that its `metrics` does not give."""
    missing = [name for name in task.shown if name not in metrics]
    if missing:
        given = ", ".join(metrics)
        raise DataError(
            "MDW-215",
            f"The task {task.name} shows {missing[0]!r}, and its metrics are {given}.",
            "Correct its `shown`, or have `metrics` give it.",
        )


def _made(task: Task, sums: Mapping[str, Tensor]) -> Mapping[str, object]:
    try:
        return task.metrics(sums)
    except ZeroDivisionError:
        pass
    # Undefined, but of the same names as elsewhere: those that sums without a 0 give.
    ones = {name: torch.ones_like(value) for name, value in sums.items()}
    try:
        return dict.fromkeys(task.metrics(ones), math.nan)
    except ZeroDivisionError:
        return {name: math.nan for name in task.shown if name != LOSS}


def _as_sum(task: Task, name: str, value: object, spec: SumSpec) -> Tensor:
    if isinstance(value, bool | int | float):
        value = torch.tensor(value)
    if not isinstance(value, Tensor) or value.is_complex():
        raise _unfit(task, f"{name!r} is a {type(value).__name__}, not a tensor of real numbers")
    if value.shape != spec.shape:
        raise _unfit(task, f"{name!r} has the shape {tuple(value.shape)}, not {spec.shape}")
    if value.is_floating_point() and not spec.real:
        raise _unfit(task, f"{name!r} is {value.dtype}, and is declared as counts")
    kind = torch.float64 if spec.real else torch.int64
    return value.detach().cpu().to(kind)


def _as_number(task: Task, name: str, value: object) -> float:
    # Numbers of Python, numpy and torch. Not every value that float() takes: "0.5" is no metric.
    single = isinstance(value, Tensor) and value.numel() == 1
    if isinstance(value, bool) or not (single or isinstance(value, int | float | np.number)):
        raise _not_a_metric(task, f"{name!r} is {value!r:.40}, a {type(value).__name__}")
    number = float(value)  # type: ignore[arg-type]  # one of the above
    return number if math.isfinite(number) else math.nan


def _unfit(task: Task, what: str) -> DataError:
    hint = "Correct its `sums` and `sum_specs`: each batch gives the same names, shapes and types."
    return DataError("MDW-208", f"The task {task.name}: {what}.", hint)


def _not_a_metric(task: Task, what: str) -> DataError:
    hint = "Correct its `metrics`: a dict of names to numbers, made of the sums alone."
    return DataError("MDW-209", f"The task {task.name}: {what}.", hint)

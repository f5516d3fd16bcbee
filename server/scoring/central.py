"""A model on the task's own test set, in idle workers of the pool where there are any.

The test set is evaluated a batch at a time, each as a set of its own, and the batches' sums are
added up in their order: who evaluates which of them does not change a bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch.utils.data import Dataset, TensorDataset

from client import sums
from client.batches import length
from client.device import device_of
from client.placement import visible
from client.tasks import task_of
from client.tasks.base import Task
from conf.schema import Conf
from server.engines.pipe import Call
from server.run.result import Metrics
from server.scoring.evaluation import Scorer

DIVIDED_BELOW: Final = 256 << 20
"""Bytes of a test set in memory that each worker may hold; a larger one is in one worker alone."""

CPU: Final = "cpu"

Arrays = dict[str, NDArray[Any]]


@dataclass
class Begun:
    """An evaluation that was begun: to call it is to wait for its metrics."""

    task: Task
    wait: Callable[[], sums.Sums]

    def __call__(self) -> Metrics:
        """Return the metrics; raises what the evaluation raised."""
        return sums.metrics_of(self.task, self.sums)

    @cached_property
    def sums(self) -> sums.Sums:
        """What the metrics are made of."""
        return self.wait()


class Workers(Protocol):
    """What calls functions in processes of its own, such as the pool."""

    @property
    def workers(self) -> int:
        """How many processes there are."""

    def call(self, call: Call) -> Future[Any]:
        """Let one of them call a function."""


@dataclass(frozen=True)
class Part:
    """A run of batches of the test set: of `batches` in all the first, and one past the last."""

    conf: Conf
    first: int
    last: int
    batches: int


@dataclass(frozen=True)
class PartSums:
    """The sums of some batches: counts added up, and each batch's real numbers in their order.

    Real numbers are added where all batches are: their sum depends on the order.
    """

    counts: Arrays
    reals: list[Arrays]


@dataclass
class _TestSet:
    """A task's test set, and a scorer of the run's models."""

    scorer: Scorer
    examples: Dataset[Any]
    on_cpu: bool
    """Whether models are scored on a CPU, wherever that is done."""

    @staticmethod
    def of(conf: Conf, *, here: bool = True) -> _TestSet | None:
        """Return the test set of a run's task, None where it has none.

        Where it is not evaluated `here`, this process takes no device: a CUDA context is half a
        gigabyte of one, and breaks what is forked.
        """
        examples = task_of(conf.task).test(conf.data)
        if examples is None:
            return None
        if here:
            scorer = Scorer.of(conf, {})
            return _TestSet(scorer, examples, device_of(scorer.model).type == "cpu")
        return _TestSet(Scorer.of(conf, {}, CPU), examples, not _workers_have_a_gpu(conf))

    @property
    def task(self) -> Task:
        """The run's task."""
        return self.scorer.task

    def batches(self) -> int:
        """Return how many batches it is evaluated as; 1 where it can't be cut without a loader, and
        on a GPU, where it stays as a whole.
        """
        in_memory = isinstance(self.examples, TensorDataset) and self.task.collate is None
        if not in_memory or not self.on_cpu:
            return 1
        size = self.scorer.conf.trainer.eval_batch_size
        return max(1, -(-length(self.examples) // size))

    def parts(self, workers: int) -> int:
        """Return into how many parts it may be divided."""
        if not isinstance(self.examples, TensorDataset):
            return 1
        small = sum(tensor.nbytes for tensor in self.examples.tensors) <= DIVIDED_BELOW
        return min(workers, self.batches()) if small else 1

    def sums(self, model: ArrayRecord, part: Part) -> PartSums:
        """Return the sums of a part."""
        self.scorer.load(model)
        counts: sums.Sums = {}
        reals = []
        for batch in range(part.first, part.last):
            examples = self.examples if part.batches == 1 else self._batch(batch)
            found = self.scorer.sums_on(examples)
            sums.add(counts, {k: v for k, v in found.items() if not v.is_floating_point()})
            reals.append({k: v.numpy() for k, v in found.items() if v.is_floating_point()})
        return PartSums({name: value.numpy() for name, value in counts.items()}, reals)

    def _batch(self, number: int) -> TensorDataset:
        assert isinstance(self.examples, TensorDataset)
        size = self.scorer.conf.trainer.eval_batch_size
        start = number * size
        return TensorDataset(*(tensor[start : start + size] for tensor in self.examples.tensors))


def _workers_have_a_gpu(conf: Conf) -> bool:
    """Return whether workers score on a GPU, without asking for one."""
    own = conf.federation.orchestrator.device
    if own != "auto":
        return own != CPU
    return (visible() > 0 and conf.simulation.gpus != 0) or torch.backends.mps.is_available()


_loaded: list[tuple[tuple[object, ...], _TestSet]] = []
"""In a worker: the test set of the last run that it was asked for."""


def part_sums(model: ArrayRecord, part: Part) -> PartSums:
    """Return the sums of a part of the test set; this runs in a worker."""
    conf = part.conf
    key = (conf.task, conf.data, conf.model, conf.trainer, conf.run.seed)
    if not _loaded or _loaded[0][0] != key:
        test = _TestSet.of(conf)
        assert test is not None  # the process that asks has seen it
        _loaded[:] = [(key, test)]
    return _loaded[0][1].sums(model, part)


class CentralScore:
    """Scores models on a task's test set: in workers, or without them here."""

    def __init__(self, conf: Conf, test: _TestSet, workers: Workers | None) -> None:
        self._conf = conf
        self._task = test.task
        self._batches = test.batches()
        self._workers = workers
        self._parts = 1 if workers is None else test.parts(workers.workers)
        # Where workers evaluate, this process need not hold the test set.
        self._test = test if workers is None else None

    def begin(self, model: ArrayRecord) -> Begun:
        """Begin to evaluate a model; what is returned waits for its metrics.

        An error is raised there: what the task raised, or SiloError MDW-317 where workers end.
        """
        if self._workers is None:
            return Begun(self._task, lambda: self._here(model))
        bounds = [self._batches * i // self._parts for i in range(self._parts + 1)]
        name = f"{part_sums.__module__}:{part_sums.__name__}"
        futures = [
            self._workers.call(Call(name, model, Part(self._conf, first, last, self._batches)))
            for first, last in itertools.pairwise(bounds)
        ]
        return Begun(self._task, lambda: _folded([future.result() for future in futures]))

    def _here(self, model: ArrayRecord) -> sums.Sums:
        assert self._test is not None
        whole = Part(self._conf, 0, self._batches, self._batches)
        return _folded([self._test.sums(model, whole)])


def _folded(parts: list[PartSums]) -> sums.Sums:
    total: sums.Sums = {}
    for part in parts:
        for some in (part.counts, *part.reals):
            sums.add(total, {k: torch.from_numpy(np.array(v)) for k, v in some.items()})
    return total


def central_score(conf: Conf, workers: Workers | None = None) -> CentralScore | None:
    """Return what scores models on the task's test set, None where it has none."""
    there = workers if workers and workers.workers else None
    test = _TestSet.of(conf, here=there is None)
    return None if test is None else CentralScore(conf, test, there)

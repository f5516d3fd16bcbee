"""The training of one round at a silo, and the evaluation of a model there, in plain PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from client import wanted
from client.batches import Batch, Batches
from client.batches.resident import residents
from client.compiled import OFF, compile_in_place, made_ready, next_step
from client.device import (
    autocast,
    choose,
    device_of,
    full_precision,
    reproducible,
)
from client.device_failures import told
from client.evaluating import Evaluation, evaluate
from client.flat_copy import to_device
from client.loss_scale import LossScale
from client.optimizer import learning_rate, momentum_of, optimizer_of, set_learning_rate
from client.randomness import torch_alone
from client.steps import Computes, Steps
from client.sums import Metrics
from client.tasks.base import Task
from client.trees import map_tensors
from client.undo import Undo
from conf.errors import DataError, WireError
from conf.schema import TrainerConf
from strategies.silo_half import Local, Records, SiloHalf, Trains
from strategies.wire import protocol

__all__ = ["Evaluation", "Trained", "evaluate", "prepare", "train"]

Arrays = Mapping[str, Tensor]


def prepare(model: nn.Module, conf: TrainerConf, device: str | None = None) -> nn.Module:
    """Return the model on its device, compiled if the trainer says so.

    `device` is the silo's own choice; without one the trainer's is taken. `conf` is what
    `client.compute` made of it.
    """
    model.to(choose(device or conf.device))
    if conf.channels_last and not any(p.dim() == 5 for p in model.parameters()):
        # Volumes have another layout, which torch refuses to mix with this one.
        model.to(memory_format=torch.channels_last)
    compile_in_place(model, conf)
    return model


@dataclass(frozen=True)
class Trained:
    """What a round of training at a silo gives beside the model, which is trained in place."""

    metrics: Metrics
    """Mean training loss (the task's own, over what `task.size` counts), examples in the set,
    seconds and examples a second.
    """
    sent: Records
    """What the algorithm sends beside the model."""
    state: Records
    """What the algorithm's half at this silo keeps for its next round."""
    size: int = 0
    """What the task's size counts in the training set, of one epoch."""
    scaling: Arrays = field(default_factory=dict)
    """fp16's scale, kept for the silo's next round (`client.loss_scale`); else empty."""
    account: str = ""
    """Under privacy, a reminder of the silo's account (`client.privacy.account`); else empty."""
    irreproducible: tuple[str, ...] = ()
    """Operations that do not give the same bits each time on this device (`client.determinism`)."""


def train(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    conf: TrainerConf,
    half: SiloHalf | None = None,
    *,
    seed: int,
    round: int = 1,
    rounds: int = 1,
    state: Records | None = None,
    sent: Records | None = None,
    labels: NDArray[np.int64] | None = None,
    scaling: Arrays | None = None,
) -> Trained:
    """Train a model in place for the epochs of one round of `rounds`, as the algorithm's half says.

    The same `seed`, weights, state and records give the same bits on the same device and threads.
    Without a half it is plain local training. Raises DataError: MDW-205 where there is too little to
    train on, MDW-224 where no step could be taken in fp16, MDW-225 to 227 where the device fails
    (`client.device_failures`); WireError MDW-671 for a half that trains nothing of the model.
    """
    started = time.perf_counter()
    half = SiloHalf() if half is None else half
    with told(conf.batch_size):
        batches = _batches(model, dataset, task, conf, seed)
        training = _Training(model, batches, task, conf, half, round, rounds, scaling)
        half.local = Local(training.forward, batches.examples, labels)
        compiling = training.made_ready(dataset, seed)
        started += compiling
        beside = not torch_alone(model, task, half)
        with reproducible(training.device, seed, conf, all_generators=beside) as operations:
            half.begin(model, _on(training.device, state), _on(training.device, sent))
            half.fit(training.run_epochs)
            more, kept = half.end(model, training.whole.steps, training.whole.rates)
        metrics = training.metrics(started)
        if conf.compile != OFF:
            metrics[protocol.SECONDS_COMPILING] = compiling
    residents.measure(training.device)
    scaling = training.scale.state()
    return Trained(
        metrics,
        more,
        kept,
        training.size,
        scaling,
        irreproducible=tuple(sorted(operations)),
    )


@dataclass
class _Passed:
    """What passes over the model have been so far."""

    steps: int = 0
    rates: float = 0.0
    """The sum of the learning rates, each with the repetitions that momentum makes of the step."""
    seen: int = 0
    """Examples or whatever else the task's size counts."""
    learned: int = 0
    """Of these, what was in steps that were taken."""
    loss: float = 0.0
    """The sum of the task's loss over what was learned."""
    skipped: int = 0
    """Steps of fp16 that were not taken, because they overflow at any scale."""
    epochs: int = 0

    def add(self, other: _Passed) -> None:
        self.steps += other.steps
        self.rates += other.rates
        self.seen += other.seen
        self.learned += other.learned
        self.loss += other.loss
        self.skipped += other.skipped
        self.epochs += other.epochs


@dataclass
class _Training:
    """One round of training at a silo."""

    model: nn.Module
    batches: Batches
    task: Task
    conf: TrainerConf
    half: SiloHalf
    round: int = 1
    rounds: int = 1
    scaling: Arrays | None = None
    whole: _Passed = field(default_factory=_Passed)

    def __post_init__(self) -> None:
        self.device = device_of(self.model)
        steps = self.conf.epochs * math.ceil(len(self.batches) / self.conf.accumulate)
        self.scale = LossScale(
            self.device,
            enabled=self.conf.precision == "fp16",
            steps=steps,
            kept=self.scaling,
        )
        self._computes = Computes(
            self.task, self.conf, self.half, self.device, self.forward, self._precision
        )

    def _precision(self) -> AbstractContextManager[object]:
        # Anew each time: a half may ask for an output while the loss is taken, and torch's context
        # can't be entered twice.
        return autocast(self.device, self.conf)

    def run_epochs(
        self,
        model: nn.Module | None = None,
        *,
        epochs: int | None = None,
        trains: Trains | None = None,
    ) -> None:
        """Train for some epochs; see `strategies.silo_half.RunEpochs`."""
        model = self.model if model is None else model
        epochs = self.conf.epochs if epochs is None else epochs
        with _only(model, trains):
            passed = self._pass(model, epochs)
        if model is self.model:
            self.whole.add(passed)

    def _pass(self, model: nn.Module, epochs: int) -> _Passed:
        conf = self.conf
        half = self.half
        weights = [p for p in model.parameters() if p.requires_grad]
        if not weights:
            raise _idle(half, "trains no weight in one of its passes")
        optimizer = optimizer_of(model, conf)
        model, optimizer, batches = half.wrap(model, optimizer, self.batches)
        steps = epochs * math.ceil(len(batches) / conf.accumulate)
        passed = _Passed(epochs=epochs)
        repeated = 0.0
        model.train()
        taking = Steps(model, optimizer, weights, self.scale, self._computes)
        for _ in range(epochs):
            supply = iter(batches)
            left = len(batches)
            odd_last = getattr(batches, "odd_last", False)
            while group := list(islice(supply, conf.accumulate)):
                left -= len(group)
                wanted.check()
                rate = learning_rate(conf, self._progress(passed.steps / steps))
                set_learning_rate(optimizer, rate)
                step = taking.take(group, odd_last=odd_last and left == 0)
                passed.seen += step.size
                if not step.taken:
                    passed.skipped += 1
                    continue
                passed.learned += step.size
                passed.steps += 1
                repeated = repeated * momentum_of(conf) + 1.0
                passed.rates += rate * repeated
        if passed.skipped and not passed.steps:
            raise _all_skipped(passed.skipped)
        # `item` waits for the GPU, so the seconds are taken after it.
        passed.loss = taking.loss_sum.item()
        return passed

    def made_ready(self, dataset: Dataset[Any], seed: int) -> float:
        """Have a compiled model compiled before the clock runs; return the seconds that it took."""
        conf = self.conf
        if conf.compile == OFF:
            return 0.0
        batches = _batches(self.model, dataset, self.task, conf, seed)
        shapes = ("training", batches.sizes[0], conf.precision, conf.deterministic)

        def step(batch: Batch) -> None:
            # As a step, and nothing moves.
            undo = Undo(self.model, self.device)
            undo.mark()
            next_step(conf)
            output = self.forward(self.model, batch)
            with self._precision():
                loss = self.task.loss(output, batch)
            torch.autograd.backward(loss)
            for weight in self.model.parameters():
                weight.grad = None
            undo.back()

        self.model.train()
        with reproducible(self.device, seed, conf):
            return made_ready(self.model, conf, shapes, lambda: batches.try_first(step))

    def _progress(self, share: float) -> float:
        """Return which share of the run is done, from that of this round."""
        return (self.round - 1 + share) / self.rounds

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Return what the task makes of a batch with a model, in the trainer's precision."""
        with self._precision():
            return map_tensors(full_precision, self.task.output(model, batch))

    @property
    def size(self) -> int:
        """What the task's size counts in one epoch."""
        return self.whole.seen // max(self.whole.epochs, 1)

    def metrics(self, started: float) -> Metrics:
        """Return what the round reports; raises WireError MDW-671 where nothing was trained."""
        if not self.whole.learned:
            raise _idle(self.half, "did not train the model that the silo sends")
        examples = self.batches.examples
        cost = _cost(examples, examples * self.whole.epochs, started)
        skipped = {protocol.SKIPPED_STEPS: self.whole.skipped} if self.scale.enabled else {}
        return {protocol.LOSS: self.whole.loss / self.whole.learned, **cost, **skipped}


def _batches(
    model: nn.Module, dataset: Dataset[Any], task: Task, conf: TrainerConf, seed: int
) -> Batches:
    """Return the training batches; raises DataError MDW-205 where there are too few examples."""
    batch_norm = any(isinstance(m, _BatchNorm) for m in model.modules())
    batches = Batches(
        dataset,
        conf.batch_size,
        device_of(model),
        conf,
        seed=seed,
        pairs=batch_norm,
        collate=task.collate,
    )
    # BatchNorm can't train on one example: it has no variance.
    needed = 2 if batch_norm else 1
    if batches.examples < needed:
        raise _too_few(batches.examples)
    return batches


def _on(device: torch.device, records: Records | None) -> Records:
    """Return an algorithm's arrays on the model's device."""
    given = records or {}
    return {name: to_device(arrays, device) for name, arrays in given.items()}


@contextmanager
def _only(model: nn.Module, trains: Trains | None) -> Iterator[None]:
    """Let only some of a model's weights be trained; those that were frozen stay so."""
    if trains is None:
        yield
        return
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    frozen = [p for name, p in named if not trains(name)]
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(True)


def _cost(examples: int, seen: int, started: float) -> Metrics:
    seconds = time.perf_counter() - started
    return {
        protocol.NUM_EXAMPLES: examples,
        protocol.SECONDS: seconds,
        protocol.SAMPLES_PER_SECOND: seen / seconds,
    }


def _idle(half: SiloHalf, what: str) -> WireError:
    hint = "Its `fit` has to call run_epochs() for that model, and some weights must be trained."
    return WireError("MDW-671", f"{type(half).__name__} {what}.", hint)


def _too_few(examples: int) -> DataError:
    if examples == 0:
        what = "0 examples are too few to train on."
        return DataError("MDW-205", what, "Give the silo more examples.")
    what = f"{examples} examples are too few to train on: BatchNorm needs two."
    return DataError("MDW-205", what, "Give the silo more examples, or use group normalisation.")


def _all_skipped(steps: int) -> DataError:
    what = f"None of the round's {steps} steps could be taken in fp16: each overflows at any scale."
    hint = "Use trainer.precision=bf16 or fp32, or a lower trainer.lr if the loss has run away."
    return DataError("MDW-224", what, hint, {"steps": steps})

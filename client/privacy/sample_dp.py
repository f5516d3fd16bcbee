"""One round of training under sample-level privacy: DP-SGD (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1) in place of `client.loop.train`.

A loop of its own and not hooks around the other one: a step here begins with a draw that may be
empty, has a gradient for each unit (`client.privacy.privacy_unit`), and must not depend on anything
else of the data. Of the algorithm's half it calls those hooks that see no example: `begin`, `fit`,
`gradients` (of what the noise is already in) and `end`. The gradients are those of
`client.privacy.unit_gradients`.

What leaves a silo is the trained weights. Buffers go back to what they were after each pass
(`client.privacy.unmixed`), and neither the loss nor the number of examples is told.

    MDW-371 a task that tells no loss of each example
    MDW-377 an algorithm or setting that would look past the noise
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor, nn
from torch.utils.data import Dataset

from client import wanted
from client.batches import length
from client.device import device_of, full_precision, reproducible
from client.loop import Trained
from client.optimizer import learning_rate, momentum_of, set_learning_rate
from client.partition import Indices
from client.privacy.accountant import Release, needed
from client.privacy.noise_plan import noise_of
from client.privacy.noise_source import Seeds
from client.privacy.privacy_unit import count_of
from client.privacy.sampling import Draws, Part, Plan, plan_of
from client.privacy.unit_gradients import (
    UnitGradients,
    check_ghost,
    optimizer_for,
    unit_gradients,
)
from client.privacy.unmixed import Untouched, check_layers, unfit
from client.tasks.base import Task
from client.tf32 import tf32
from client.trees import map_tensors
from conf.errors import DataError, SiloError
from conf.schema import RunScope, SampleDpConf, Silo, TrainerConf
from strategies.silo_half import Local, Records, SiloHalf, Trains
from strategies.wire import protocol

DRAWS_AT_ONCE: Final = 2
"""Examples computed with together, in draws of the size that is expected: as many of groups."""
UNSEEN: Final = ("output", "loss", "wrap")
"""Hooks of a silo's half that would see examples."""


def release_of(
    scope: RunScope,
    plan: Plan,
    before: Sequence[Release] = (),
    beside: Sequence[Release] = (),
) -> Release:
    """Return what a round of such draws releases: with noise for the whole run's epsilon, as if the
    silo were asked in each round that is left, or with the noise that the run names.

    `before` is what its rounds have released here so far, and `beside` what all its evaluations
    release (`client.privacy.metrics_plan`). Raises SiloError MDW-378
    (`client.privacy.noise_plan`).
    """
    left = max(scope.run.rounds - len(before), 1)
    round = Release(plan.rate, 0.0, plan.steps)
    return replace(round, noise=noise_of(_asked(scope), round, left, before, beside))


def plan_for(scope: RunScope, dataset: Dataset[Any], groups: Indices | None = None) -> Plan:
    """Return the draws of a round of a run over a silo's training split, of examples or of `groups`;
    raises DataError MDW-205 where it is empty.
    """
    examples = length(dataset)
    if not examples:
        what = "0 examples are too few to train on."
        raise DataError("MDW-205", what, "Give the silo more examples.")
    units = examples if groups is None else count_of(groups)
    return plan_of(units, scope.trainer.batch_size, scope.trainer.epochs)


def check(model: nn.Module, task: Task, half: SiloHalf, scope: RunScope, silo: Silo) -> None:
    """Raise SiloError MDW-371, 372, 374, 375 or 377 where a silo can't train so; no example is looked at."""
    if type(task).example_losses is Task.example_losses:
        what = (
            f"{silo.name} can't train {task.name} with privacy=sample_dp: it tells no loss of each"
        )
        raise SiloError("MDW-371", f"{what} example.", "Write the task's `example_losses`.")
    named = [name for name in UNSEEN if getattr(type(half), name) is not getattr(SiloHalf, name)]
    if named:
        what = f"{type(half).__name__} changes what is computed of examples ({', '.join(named)})"
        hint = "Use strategy=fedavg, fedprox or scaffold with privacy=sample_dp."
        raise SiloError("MDW-377", f"{what}, which privacy=sample_dp does not cover.", hint)
    _check_trainer(scope.trainer)
    if scope.strategy.weighting != protocol.EQUAL:
        what = (
            f"strategy.weighting={scope.strategy.weighting} would tell how many examples there are."
        )
        raise SiloError("MDW-377", what, "Use strategy.weighting=equal with privacy=sample_dp.")
    # Only in this mode it looks at all layers.
    model.train()
    found = needed("opacus.validators").ModuleValidator.validate(model, strict=False)
    if found:
        raise unfit(str(found[0]))
    check_layers(model)
    check_ghost(model, _asked(scope))


def _check_trainer(trainer: TrainerConf) -> None:
    refused = (
        ("trainer.accumulate", trainer.accumulate, 1),
        ("trainer.clip_norm", trainer.clip_norm, None),
        ("trainer.compile", trainer.compile, "off"),
    )
    for key, value, plain in refused:
        if value != plain:
            hint = f"Take {key}={'null' if plain is None else plain}; see docs/privacy.md."
            raise SiloError("MDW-377", f"{key}={value} does not go with privacy=sample_dp.", hint)


def train(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    scope: RunScope,
    half: SiloHalf,
    release: Release,
    *,
    silo: Silo,
    round: int,
    groups: Indices | None = None,
    state: Records | None = None,
    sent: Records | None = None,
) -> Trained:
    """Train a model in place for one round; what leaves is covered by `release`.

    `groups` are the units (`client.privacy.privacy_unit`); None where each example is one.
    The randomness is the operating system's, drawn anew at each call and kept nowhere; with
    `privacy.test_seed` it is that seed's, and nothing is promised.
    """
    started = time.perf_counter()
    seeds = Seeds(_asked(scope).test_seed, silo.name, round)
    untouched = Untouched(model)
    private = _Private(
        model, dataset, groups, task, scope, half, release, silo, seeds, round, untouched
    )
    with reproducible(private.device, seeds.drawn("model"), scope.trainer):
        half.local = Local(_no_examples, 1)
        half.begin(model, private.placed(state), private.placed(sent))
        half.fit(private.run_epochs)
        beside, kept = half.end(model, private.steps, private.rates)
    untouched.put_back()
    metrics = {protocol.NUM_EXAMPLES: 1, protocol.SECONDS: time.perf_counter() - started}
    return Trained(metrics, beside, kept, 1)


@dataclass
class _Private:
    """A round of private training at a silo."""

    model: nn.Module
    dataset: Dataset[Any]
    groups: Indices | None
    task: Task
    scope: RunScope
    half: SiloHalf
    release: Release
    silo: Silo
    seeds: Seeds
    round: int
    untouched: Untouched
    steps: int = 0
    rates: float = 0.0

    def __post_init__(self) -> None:
        self.device = device_of(self.model)

    def placed(self, records: Records | None) -> Records:
        return {
            name: {key: array.to(self.device) for key, array in arrays.items()}
            for name, arrays in (records or {}).items()
        }

    def run_epochs(
        self,
        model: nn.Module | None = None,
        *,
        epochs: int | None = None,
        trains: Trains | None = None,
    ) -> None:
        """Train the round's model once: a second pass over the examples would cost as much again."""
        others = model is not None and model is not self.model
        if others or epochs is not None or trains is not None or self.steps:
            what = f"{type(self.half).__name__} trains in several passes, which are not counted."
            raise SiloError("MDW-377", what, "Use strategy=fedavg, fedprox or scaffold.")
        self._train()

    def _train(self) -> None:
        trainer = self.scope.trainer
        plan = plan_for(self.scope, self.dataset, self.groups)
        draws = self._draws(plan)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        asked = _asked(self.scope)
        repeated = 0.0
        self.model.train()
        with unit_gradients(self.model, asked) as gradients:
            optimizer = optimizer_for(
                self.model,
                trainer,
                asked,
                self.release.noise,
                plan.batch,
                self.seeds.generator("noise", self.device),
            )
            optimizer.zero_grad(set_to_none=True)
            for parts in draws:
                wanted.check()
                progress = (self.round - 1 + self.steps / plan.steps) / self.scope.run.rounds
                rate = learning_rate(trainer, progress)
                set_learning_rate(optimizer.original_optimizer, rate)
                self._noised_gradients(draws, parts, optimizer, gradients)
                self.half.gradients(weights)
                optimizer.original_optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                self.steps += 1
                repeated = repeated * momentum_of(trainer) + 1.0
                self.rates += rate * repeated

    def _draws(self, plan: Plan) -> Draws:
        of_group = 1 if self.groups is None else _asked(self.scope).examples_per_unit
        at_once = self.silo.batch_size_at_most or max(DRAWS_AT_ONCE * plan.batch, of_group)
        return Draws(
            self.dataset,
            plan,
            at_once,
            self.device,
            self.task.collate,
            self.seeds.generator("draws"),
            self.groups,
            of_group,
        )

    def _output(self, batch: Any) -> Any:
        try:
            return self.task.output(self.model, batch)
        except RuntimeError as error:
            if "modified inplace" not in str(error):
                raise
            raise unfit("it changes the output of a layer in place (x += y)") from error

    def _noised_gradients(
        self, draws: Draws, parts: list[Part], optimizer: Any, gradients: UnitGradients
    ) -> None:
        """Put the gradient of a draw into the weights: clipped, summed, noised, and divided."""
        for number, part in enumerate(parts, 1):
            batch = draws.batch(part.examples)
            self.untouched.look()
            output = map_tensors(full_precision, self._output(batch))
            losses = self.task.example_losses(output, batch)
            _check_losses(losses, len(part.examples), self.task)
            gradients.take(losses, part)
            self.untouched.check()
            if number < len(parts):
                optimizer.signal_skip_step()
                with tf32(self.device, allowed=False):
                    optimizer.pre_step()
                optimizer.zero_grad(set_to_none=True)
        if not parts:
            # A step of noise alone: that nobody was drawn must not show.
            gradients.take_none()
        optimizer.signal_skip_step(False)
        with tf32(self.device, allowed=False):
            optimizer.pre_step()


def _check_losses(losses: Tensor, examples: int, task: Task) -> None:
    if losses.shape != (examples,):
        what = f"{task.name} gives losses {tuple(losses.shape)} of {examples} examples."
        raise SiloError("MDW-371", what, "Have its `example_losses` return one number an example.")


def _no_examples(*_: Any) -> Any:
    what = "An algorithm that asks for outputs of the silo's examples does not go with privacy."
    raise SiloError("MDW-377", what, "Use strategy=fedavg, fedprox or scaffold.")


def _asked(scope: RunScope) -> SampleDpConf:
    assert isinstance(scope.privacy, SampleDpConf)
    return scope.privacy

"""One round of training under sample-level privacy: DP-SGD (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1) in place of `client.loop.train`.

A loop of its own and not hooks around the other one: a step here begins with a draw that may be
empty, has a gradient for each example, and must not depend on anything else of the data. Of the
algorithm's half it calls those hooks that see no example: `begin`, `fit`, `gradients` (of what the
noise is already in) and `end`. The gradients come from Opacus.

What leaves a silo is the trained weights. Buffers go back to what they were, and neither the loss nor
the number of examples is told.

    MDW-371 a task that tells no loss of each example
    MDW-372 a model of which no such gradients can be had
    MDW-377 an algorithm or setting that would look past the noise
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from client import wanted
from client.batches import length
from client.device import device_of, full_precision, reproducible
from client.loop import Trained
from client.optimizer import learning_rate, momentum_of, optimizer_of, set_learning_rate
from client.privacy.accountant import Release, needed
from client.privacy.noise_plan import noise_of
from client.privacy.noise_source import Seeds
from client.privacy.sampling import Draws, Plan, plan_of
from client.tasks.base import Task
from client.trees import map_tensors
from conf.errors import DataError, SiloError
from conf.schema import RunScope, SampleDpConf, Silo, TrainerConf
from strategies.silo_half import Local, Records, SiloHalf, Trains
from strategies.wire import protocol

DRAWS_AT_ONCE: Final = 2
"""Examples computed with together, in draws of the size that is expected."""
UNSEEN: Final = ("output", "loss", "wrap")
"""Hooks of a silo's half that would see examples."""


def release_of(scope: RunScope, plan: Plan, before: Sequence[Release] = ()) -> Release:
    """Return what a round of such draws releases: with noise for the whole run's epsilon, as if the
    silo were asked in each round that is left, or with the noise that the run names.

    `before` is what the run has released here so far. Raises SiloError MDW-378
    (`client.privacy.noise_plan`).
    """
    left = max(scope.run.rounds - len(before), 1)
    round = Release(plan.rate, 0.0, plan.steps)
    return replace(round, noise=noise_of(_asked(scope), round, left, before))


def plan_for(scope: RunScope, dataset: Dataset[Any]) -> Plan:
    """Return the draws of a round of a run over a silo's training split; raises DataError MDW-205
    where it is empty.
    """
    examples = length(dataset)
    if not examples:
        what = "0 examples are too few to train on."
        raise DataError("MDW-205", what, "Give the silo more examples.")
    return plan_of(examples, scope.trainer.batch_size, scope.trainer.epochs)


def check(model: nn.Module, task: Task, half: SiloHalf, scope: RunScope, silo: Silo) -> None:
    """Raise SiloError MDW-371, 372, 375 or 377 where a silo can't train so; no example is looked at."""
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
        raise _unfit(str(found[0]))


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
    state: Records | None = None,
    sent: Records | None = None,
) -> Trained:
    """Train a model in place for one round; what leaves is covered by `release`.

    The randomness is the operating system's, drawn anew at each call and kept nowhere; with
    `privacy.test_seed` it is that seed's, and nothing is promised.
    """
    started = time.perf_counter()
    seeds = Seeds(_asked(scope).test_seed, silo.name, round)
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    private = _Private(model, dataset, task, scope, half, release, silo, seeds, round)
    with reproducible(private.device, seeds.drawn("model"), scope.trainer):
        half.local = Local(_no_examples, 1)
        half.begin(model, private.placed(state), private.placed(sent))
        half.fit(private.run_epochs)
        beside, kept = half.end(model, private.steps, private.rates)
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    metrics = {protocol.NUM_EXAMPLES: 1, protocol.SECONDS: time.perf_counter() - started}
    return Trained(metrics, beside, kept, 1)


@dataclass
class _Private:
    """A round of private training at a silo."""

    model: nn.Module
    dataset: Dataset[Any]
    task: Task
    scope: RunScope
    half: SiloHalf
    release: Release
    silo: Silo
    seeds: Seeds
    round: int
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
        plan = plan_for(self.scope, self.dataset)
        draws = Draws(
            self.dataset,
            plan,
            self.silo.batch_size_at_most or DRAWS_AT_ONCE * plan.batch,
            self.device,
            self.task.collate,
            self.seeds.generator("draws"),
        )
        weights = [p for p in self.model.parameters() if p.requires_grad]
        repeated = 0.0
        self.model.train()
        with _example_gradients(self.model):
            optimizer = self._optimizer(weights, plan)
            optimizer.zero_grad(set_to_none=True)
            for parts in draws:
                wanted.check()
                progress = (self.round - 1 + self.steps / plan.steps) / self.scope.run.rounds
                rate = learning_rate(trainer, progress)
                set_learning_rate(optimizer.original_optimizer, rate)
                self._noised_gradients(draws, parts, optimizer, weights)
                self.half.gradients(weights)
                optimizer.original_optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                self.steps += 1
                repeated = repeated * momentum_of(trainer) + 1.0
                self.rates += rate * repeated

    def _output(self, batch: Any) -> Any:
        try:
            return self.task.output(self.model, batch)
        except RuntimeError as error:
            if "modified inplace" not in str(error):
                raise
            raise _unfit("it changes the output of a layer in place (x += y)") from error

    def _optimizer(self, weights: list[nn.Parameter], plan: Plan) -> Any:
        """Return what clips the gradients of examples, adds them up, and adds the noise."""
        asked = _asked(self.scope)
        optimizers = needed("opacus.optimizers")
        per_layer = asked.clipping == "per_layer"
        kind = optimizers.DPPerLayerOptimizer if per_layer else optimizers.DPOptimizer
        # Each layer gets its part of the norm, so that the whole is bounded by clip_norm as well.
        clip = [asked.clip_norm / len(weights) ** 0.5] * len(weights)
        return kind(
            optimizer_of(self.model, self.scope.trainer),
            noise_multiplier=self.release.noise,
            max_grad_norm=clip if per_layer else asked.clip_norm,
            expected_batch_size=plan.batch,
            loss_reduction="mean",
            generator=self.seeds.generator("noise", self.device),
        )

    def _noised_gradients(
        self, draws: Draws, parts: list[Tensor], optimizer: Any, weights: list[nn.Parameter]
    ) -> None:
        """Put the gradient of a draw into the weights: clipped, summed, noised, and divided."""
        for number, indices in enumerate(parts, 1):
            batch = draws.batch(indices)
            output = map_tensors(full_precision, self._output(batch))
            losses = self.task.example_losses(output, batch)
            _check_losses(losses, len(indices), self.task)
            losses.sum().backward()
            _check_gradients(self.model, len(indices))
            for weight in weights:
                # What is not finite has no norm to be clipped to: it counts as no gradient.
                torch.nan_to_num_(weight.grad_sample, 0.0, 0.0, 0.0)  # type: ignore[attr-defined]
            if number < len(parts):
                optimizer.signal_skip_step()
                optimizer.pre_step()
                optimizer.zero_grad(set_to_none=True)
        if not parts:
            # A step of noise alone: that nobody was drawn must not show.
            for weight in weights:
                weight.grad_sample = weight.new_zeros((0, *weight.shape))  # type: ignore[attr-defined]
        optimizer.signal_skip_step(False)
        optimizer.pre_step()


@contextmanager
def _example_gradients(model: nn.Module) -> Iterator[None]:
    """Have a backward pass leave each example's gradient in `grad_sample`; the model stays as it is."""
    hooks = needed("opacus.grad_sample").GradSampleHooks
    # What a layer changes in place is no output that a hook could look at.
    in_place = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]  # a flag of torch's own layers
    # A batch needs no gradient itself, as its hooks warn at each step.
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
    try:
        attached = hooks(model, loss_reduction="sum")
    except (NotImplementedError, ValueError) as error:
        raise _unfit(str(error)) from error
    try:
        yield
    finally:
        attached.cleanup()
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
        for weight in model.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample"):
                if hasattr(weight, name):
                    delattr(weight, name)
            weight.grad = None


def _check_losses(losses: Tensor, examples: int, task: Task) -> None:
    if losses.shape != (examples,):
        what = f"{task.name} gives losses {tuple(losses.shape)} of {examples} examples."
        raise SiloError("MDW-371", what, "Have its `example_losses` return one number an example.")


def _check_gradients(model: nn.Module, examples: int) -> None:
    """Raise SiloError MDW-372 where a weight has not got a gradient for each example."""
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        found = getattr(weight, "grad_sample", None)
        if found is None or len(found) != examples:
            raise _unfit(f"{name} has no gradient of each example")


def _unfit(why: str) -> SiloError:
    reason = " ".join(why.split())[:300]
    return SiloError(
        "MDW-372",
        f"This model can't be trained with privacy=sample_dp: {reason}.",
        "Choose one without batch normalisation (model=cnn, mlp, linear, or model.norm=group).",
    )


def _no_examples(*_: Any) -> Any:
    what = "An algorithm that asks for outputs of the silo's examples does not go with privacy."
    raise SiloError("MDW-377", what, "Use strategy=fedavg, fedprox or scaffold.")


def _asked(scope: RunScope) -> SampleDpConf:
    assert isinstance(scope.privacy, SampleDpConf)
    return scope.privacy

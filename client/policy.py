"""Whether a run may use a silo's data and machine: its owner's limits, checked in the silo's
process.

The limits come with the silo's settings, never in a message, so no server can relax them. A run
that they do not allow is refused as a whole: what it asked for is never changed silently.

    MDW-340 batches that the machine does not take    MDW-341 what the owner does not allow
"""

from __future__ import annotations

import dataclasses
import math

from client.loop import Trained
from client.sums import Metrics
from conf.errors import SiloError
from conf.schema import ModelConf, RunScope, Silo, StrategyConf, TaskConf, TrainerConf, is_outside
from conf.targets import known
from strategies.wire import protocol


def check_run(scope: RunScope, silo: Silo, round: int) -> None:
    """Raise SiloError MDW-340 or 341 where the silo takes no part in such a run or round, and
    MDW-346 or 347 where the run names code from outside this tree that its job was not given.
    """
    policy = silo.policy
    # A server that announces few rounds and goes on asking is held to what it asks.
    rounds = max(round, scope.run.rounds)
    _check_listed(scope, silo)
    _one_of("task", scope.task.name, policy.tasks, silo)
    _one_of("model", scope.model.name, policy.models, silo)
    _one_of("strategy", scope.strategy.name, policy.strategies, silo)
    weighting = scope.strategy.weighting
    if not policy.reveal_counts and weighting != protocol.EQUAL:
        what = f"strategy.weighting={weighting}, which tells how many examples the silo has"
        raise _refused(silo, what, "Allowed: strategy.weighting=equal.")
    _at_most("trainer.epochs", scope.trainer.epochs, policy.epochs_at_most, silo)
    _at_most("run.rounds", rounds, policy.rounds_at_most, silo)
    limit = silo.batch_size_at_most
    batch_size = scope.trainer.batch_size
    if limit is not None and batch_size > limit:
        what = f"{silo.name} takes at most {limit} examples a batch, not {batch_size}."
        accumulate = scope.trainer.accumulate * math.ceil(batch_size / limit)
        hint = (
            f"Set trainer.batch_size={limit}, with trainer.accumulate={accumulate}"
            " for as many examples a step."
        )
        raise SiloError("MDW-340", what, hint)


def check_examples(examples: int, silo: Silo) -> None:
    """Raise SiloError MDW-341 where there are fewer examples than the owner wants to train on."""
    least = silo.policy.examples_at_least
    if least is not None and examples < least:
        what = f"training on fewer than {least} examples"
        raise _refused(silo, what, "It takes part when it has more.")


def reported(trained: Trained, strategy: StrategyConf, silo: Silo) -> Metrics:
    """Return what the server learns of a training beside the update.

    Its size only where that weighs. Where the owner keeps the counts, what they could be made of
    stays here, and the update is that of one example, which Flower's strategies need.
    """
    if not silo.policy.reveal_counts:
        kept = (protocol.NUM_EXAMPLES, protocol.SAMPLES_PER_SECOND)
        shown = {name: value for name, value in trained.metrics.items() if name not in kept}
        return {protocol.NUM_EXAMPLES: 1, **shown}
    if strategy.weighting == protocol.BY_SIZE:
        return trained.metrics | {protocol.SIZE: trained.size}
    return trained.metrics


def for_evaluation(conf: TrainerConf, silo: Silo) -> TrainerConf:
    """Return the trainer with evaluation batches that the machine takes.

    They are made smaller without asking, because a model's score does not depend on their size.
    """
    limit = silo.batch_size_at_most
    if limit is None:
        return conf
    return dataclasses.replace(conf, eval_batch_size=min(conf.eval_batch_size, limit))


def _check_listed(scope: RunScope, silo: Silo) -> None:
    """Raise SiloError MDW-346 or 347 where a run names code that this silo's job was not given."""
    named: list[tuple[str, TaskConf | ModelConf | StrategyConf]] = [
        ("task", scope.task),
        ("model", scope.model),
    ]
    if getattr(scope.strategy, "code", ""):
        # Where only the server has a half, no code of it is named.
        named.append(("strategy", scope.strategy))
    for group, own in named:
        if not is_outside(own.name):
            continue
        try:
            known.find(group, own.name, getattr(own, "code", ""))
        except SiloError as error:
            raise SiloError(error.code, f"{silo.name}: {error.message}", error.hint) from None


def _one_of(what: str, asked: str, allowed: list[str], silo: Silo) -> None:
    if allowed and asked not in allowed:
        raise _refused(silo, f"{what}={asked}", f"Allowed: {', '.join(allowed)}.")


def _at_most(what: str, asked: int, most: int | None, silo: Silo) -> None:
    if most is not None and asked > most:
        raise _refused(silo, f"{what}={asked}", f"Allowed: at most {most}.")


def _refused(silo: Silo, what: str, allowed: str) -> SiloError:
    return SiloError("MDW-341", f"The owner of {silo.name} does not allow {what}.", allowed)

"""Whether a run may use a silo's data and machine: its owner's limits, checked in the silo's
process.

The limits come with the silo's settings, never in a message, so no server can relax them. A run
that they do not allow is refused as a whole: what it asked for is never changed silently.

    MDW-340 batches that the machine does not take    MDW-341 what the owner does not allow
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from client.loop import Trained
from client.model_size import check_machine
from client.sums import Metrics
from conf.allowed import ALLOW_LIST, ROUNDS, Broken, asked, broken
from conf.border import field
from conf.errors import SiloError
from conf.privacy_kinds import GROUP, LOCAL_DP, MEETING, OF_EXAMPLES, OF_SILOS, SAMPLE_DP
from conf.schema import (
    ModelConf,
    PolicyConf,
    RunScope,
    SampleDpConf,
    Silo,
    StrategyConf,
    TaskConf,
    TrainerConf,
    is_outside,
)
from conf.schema.aggregation_kinds import WEAKEST_FIRST
from conf.targets import known
from strategies.wire import protocol

MOST_NAMED: Final = 20
"""Of what is wrong with a run, named in one refusal: its names are another party's."""


def check_run(scope: RunScope, silo: Silo, round: int) -> None:
    """Raise SiloError MDW-340 or 341 where the silo takes no part in such a run or round, naming all
    that its owner does not allow, and MDW-346 or 347 where the run names code from outside this tree
    that its job was not given.
    """
    _check_listed(scope, silo)
    # A server that announces few rounds and goes on asking is held to what it asks.
    rounds = max(round, scope.run.rounds)
    found = _broken(scope, silo, rounds)
    batch = _too_large_a_batch(scope.trainer, silo)
    if found:
        raise _refused(silo, [*found, *batch])
    if batch:
        raise _batch_refused(scope.trainer, silo)
    check_machine(scope.trainer, silo)


def _broken(scope: RunScope, silo: Silo, rounds: int) -> list[Broken]:
    """Return all that the owner's policy does not allow of a run."""
    policy = silo.policy
    found = []
    if policy.version == ALLOW_LIST:
        found += broken(policy.allow, asked(scope, rounds))
    else:
        found += _broken_in_version_1(scope, policy, rounds)
    found += _too_little_privacy(scope, policy)
    found += _too_open_an_aggregation(scope, policy)
    weighting = scope.strategy.weighting
    if not policy.reveal_counts and weighting != protocol.EQUAL:
        what = f"strategy.weighting={weighting}, which tells how many examples the silo has"
        found.append(Broken(what, "strategy.weighting=equal"))
    return found


def _broken_in_version_1(scope: RunScope, policy: PolicyConf, rounds: int) -> list[Broken]:
    """Return what the first version of a policy does not allow: what it does not name, it allows."""
    found = []
    listed = (
        ("task", scope.task.name, policy.tasks),
        ("model", scope.model.name, policy.models),
        ("strategy", scope.strategy.name, policy.strategies),
    )
    for what, name, allowed in listed:
        if allowed and name not in allowed:
            found.append(Broken(f"{what}={name}", ", ".join(allowed)))
    bounded = (
        ("trainer.epochs", scope.trainer.epochs, policy.epochs_at_most),
        (ROUNDS, rounds, policy.rounds_at_most),
    )
    for what, value, most in bounded:
        if most is not None and value > most:
            found.append(Broken(f"{what}={value}", f"at most {most}"))
    return found


def _too_little_privacy(scope: RunScope, policy: PolicyConf) -> list[Broken]:
    """Return what is wrong with a run whose privacy is below the owner's floors."""
    enough = list(MEETING[policy.privacy_at_least])
    # What has no cost that can be counted is within no bound of it.
    bounds = ((policy.epsilon_at_most, OF_EXAMPLES), (policy.silo_epsilon_at_most, OF_SILOS))
    for most, kinds in bounds:
        if most is not None:
            enough = [kind for kind in enough if kind in kinds]
    whole = policy.unit_at_least == GROUP
    if whole:
        enough = [kind for kind in enough if kind in (SAMPLE_DP, LOCAL_DP)]
    said = {kind: f"privacy={kind}" for kind in enough}
    if whole and SAMPLE_DP in said:
        said[SAMPLE_DP] += f" with privacy.unit={GROUP}"
    allowed = " or ".join(said.values())
    asked = scope.privacy
    if asked.name not in enough:
        return [Broken(f"privacy={asked.name}", allowed)]
    if whole and isinstance(asked, SampleDpConf) and asked.unit != GROUP:
        return [Broken(f"privacy.unit={asked.unit}", allowed)]
    return []


def _too_open_an_aggregation(scope: RunScope, policy: PolicyConf) -> list[Broken]:
    """Return what is wrong with a run that shows the server more of an update than its owner wants."""
    enough = WEAKEST_FIRST[WEAKEST_FIRST.index(policy.aggregation_at_least) :]
    if scope.aggregation.name in enough:
        return []
    allowed = " or ".join(f"aggregation={kind}" for kind in enough)
    return [Broken(f"aggregation={scope.aggregation.name}", allowed)]


def _too_large_a_batch(trainer: TrainerConf, silo: Silo) -> list[Broken]:
    limit = silo.batch_size_at_most
    if limit is None or trainer.batch_size <= limit:
        return []
    return [Broken(f"trainer.batch_size={trainer.batch_size}", f"at most {limit}")]


def _batch_refused(trainer: TrainerConf, silo: Silo) -> SiloError:
    limit = silo.batch_size_at_most or 1
    accumulate = trainer.accumulate * math.ceil(trainer.batch_size / limit)
    return SiloError(
        "MDW-340",
        f"{silo.name} takes at most {limit} examples a batch, not {trainer.batch_size}.",
        f"Set trainer.batch_size={limit}, with trainer.accumulate={accumulate}"
        " for as many examples a step.",
        {"refused": f"trainer.batch_size={trainer.batch_size} (allowed: at most {limit})"},
    )


def check_examples(examples: int, silo: Silo) -> None:
    """Raise SiloError MDW-341 where there are fewer examples than the owner wants to train on."""
    least = silo.policy.examples_at_least
    if least is not None and examples < least:
        what = f"The owner of {silo.name} does not allow training on fewer than {least} examples."
        told = {"refused": f"training on fewer than {least} examples"}
        raise SiloError("MDW-341", what, "It takes part when it has more.", told)


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
            raise SiloError(
                error.code, f"{silo.name}: {error.message}", error.hint, error.told
            ) from None


def _refused(silo: Silo, found: list[Broken]) -> SiloError:
    """Return the refusal of a run by all that is wrong with it: whoever asks again asks once."""
    owner = f"The owner of {silo.name} does not allow"
    shown = "; ".join(f"{one.asked} (allowed: {one.allowed})" for one in found[:MOST_NAMED])
    # What was asked is the server's own, and what is allowed is for it to hear.
    told = {"refused": field(shown)}
    if len(found) == 1:
        (one,) = found
        return SiloError("MDW-341", f"{owner} {one.asked}.", f"Allowed: {one.allowed}.", told)
    more = len(found) - MOST_NAMED
    rest = f"; and {more} more" if more > 0 else ""
    what = f"{owner} {len(found)} things of this run: {shown}{rest}."
    return SiloError("MDW-341", what, "Ask for what is allowed, or talk to the owner.", told)

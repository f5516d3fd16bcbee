"""A silo's round under any kind of privacy: what it costs is noted, and then it is trained.

The order is the point: nothing is drawn before the release is in the silo's account, and what leaves
is that release and nothing else of the examples. Sample-level privacy has its steps in
`client.privacy.sample_dp`, the other kinds theirs in `client.privacy.clipped_round`.

    MDW-377 `privacy.test_seed` outside a simulation, weights that can't hold noise
    MDW-378 a delta that allows to give units away
    MDW-382 a run whose releases so far protect something else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from flwr.app import Context
from torch import nn

from client.loop import Trained
from client.privacy import canaries, clipped_round, metrics_plan, privacy_unit, sample_dp
from client.privacy.account import Account
from client.privacy.accountant import Release
from client.privacy.sampling import Plan
from client.silo_round import SiloRound
from client.silo_settings import data_key
from conf.errors import SiloError
from conf.privacy_kinds import NOISED_METRICS, RELATIONS
from conf.schema import NoisyConf, PrivacyConf, RunScope, SampleDpConf, Silo
from strategies.wire import protocol

SIMULATED: Final = "partition-id"
"""Of a node's configuration: there in simulations alone."""
FLOAT32: Final = 4
"""Bytes of a weight."""


def tells_metrics(privacy: PrivacyConf) -> bool:
    """Return whether a silo may tell metrics of its examples: not without noise, where there is a
    guarantee to be kept.
    """
    return not privacy.guarantees


def check_simulated(privacy: PrivacyConf, silo: Silo, context: Context) -> None:
    """Raise SiloError MDW-377 or 386 where a run asks a silo for what has a place in simulations alone.

    Of every message, not of training alone: where nothing is promised a silo tells metrics, and a
    server that says so would get them of a silo whose owner wants a guarantee.
    """
    if SIMULATED in context.node_config:
        return
    if isinstance(privacy, NoisyConf) and privacy.test_seed is not None:
        what = (
            f"privacy.test_seed={privacy.test_seed}: {silo.name} is no simulation, and its noise is"
        )
        raise SiloError("MDW-377", f"{what} not known to anybody.", "Leave privacy.test_seed out.")
    if isinstance(privacy, SampleDpConf) and privacy.audit:
        what = (
            f"privacy.audit=true: {silo.name} is no simulation, and trains on no made-up examples."
        )
        raise SiloError("MDW-386", what, "Audit the run with meadow simulate.")


def train(asked: SiloRound, context: Context) -> Trained:
    """Train the model of a round, with what it costs noted first.

    Raises SiloError MDW-364, 371 to 378, 381, 382, 386 and 388, CheckpointError MDW-540.
    """
    privacy = asked.scope.privacy
    assert isinstance(privacy, NoisyConf)
    check_simulated(privacy, asked.silo, context)
    check_weights(asked.loaded.model, privacy)
    if isinstance(privacy, SampleDpConf):
        return _sample_level(asked, privacy, context)
    account = begun(context, asked.silo, asked.told)
    check_same(account, asked.run, privacy, asked.silo)
    trained = clipped_round.train(asked, account)
    return replace(trained, account=account.reminder())


def check_weights(model: nn.Module, privacy: NoisyConf) -> None:
    """Raise SiloError MDW-377 for a model whose trained weights can't hold the noise: below the
    distance of two half-precision numbers it is rounded away, and the weight tells what it was.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.is_floating_point() and weight.itemsize < FLOAT32:
            kind = str(weight.dtype).removeprefix("torch.")
            what = f"{name} is trained in {kind}, in which the noise of privacy={privacy.name} is lost."
            raise SiloError(
                "MDW-377", what, "Build the model in float32, or train without privacy."
            )


def _sample_level(asked: SiloRound, privacy: SampleDpConf, context: Context) -> Trained:
    loaded, silo, half, round = asked.loaded, asked.silo, asked.half, asked.round
    # As this silo's machine carries it out.
    scope = replace(asked.scope, trainer=loaded.trainer)
    sample_dp.check(loaded.model, loaded.task, half, scope, silo)
    examples = loaded.data.train
    groups = privacy_unit.units_of(privacy, loaded.data, silo)
    planted = canaries.planted(examples, privacy, silo, scope.run.seed, groups)
    if planted is not None:
        examples, groups = planted.dataset, planted.groups
    plan = sample_dp.plan_for(scope, examples, groups)
    _check_delta(privacy, plan.units, silo)
    account = begun(context, silo, asked.told)
    release = _release(account, asked, privacy, scope, plan)
    entries = account.reserve(asked.run, round, release, silo.policy, unit=privacy.unit)
    with canaries.scored(planted, loaded, silo, round):
        trained = sample_dp.train(
            loaded.model,
            examples,
            loaded.task,
            scope,
            half,
            release,
            silo=silo,
            round=round,
            groups=groups,
            state=asked.state,
            sent=asked.sent,
        )
    spent = clipped_round.spent(entries, privacy, release.noise)
    return replace(trained, metrics={**trained.metrics, **spent}, account=account.reminder())


def _release(
    account: Account, asked: SiloRound, privacy: SampleDpConf, scope: RunScope, plan: Plan
) -> Release:
    """Return the release of a round, with the noise that what the run has released so far asks for."""
    made = [one for one in account.entries() if one.run == asked.run]
    before = [one for one in made if one.mechanism != NOISED_METRICS]
    check_same(account, asked.run, privacy, asked.silo)
    told = [one.release for one in made if one.mechanism == NOISED_METRICS]
    beside = metrics_plan.all_releases(privacy, scope.run.rounds, told)
    return sample_dp.release_of(scope, plan, [one.release for one in before], beside)


def begun(context: Context, silo: Silo, told: Mapping[str, Any]) -> Account:
    """Return the silo's account, not older than the server has seen it.

    Raises SiloError MDW-376 without a place for one, CheckpointError MDW-540.
    """
    account = _account(silo.account, silo.name, data_key(context))
    bounded = silo.policy.epsilon_at_most, silo.policy.silo_epsilon_at_most
    if SIMULATED in context.node_config or bounded == (None, None):
        # Whoever bounds what is spent begins the account: one that is gone must not begin at zero.
        account.begin()
    account.check_reminder(str(told.get(protocol.REMINDER, "")))
    return account


def _check_delta(privacy: NoisyConf, count: int, silo: Silo) -> None:
    if privacy.delta * count > 1:
        what = f"privacy.delta={privacy.delta:g} is too large for {silo.name}: with it, one of its"
        hint = f"Ask for a delta that is less than one in the number of {privacy.protects}s of any silo."
        raise SiloError(
            "MDW-378", f"{what} {privacy.protects}s could be given away as it is.", hint
        )


def check_same(account: Account, run: str, privacy: NoisyConf, silo: Silo) -> None:
    """Raise SiloError MDW-382 where a run has released under another guarantee before: the sum of
    both would be of neither.
    """
    asked = (RELATIONS[privacy.name], privacy.protects)
    before = [one for one in account.entries() if one.run == run]
    others = [one for one in before if (one.relation, one.unit) != asked]
    if others:
        what = f"{silo.name} has released for this run ({others[0].mechanism}) of each"
        raise SiloError(
            "MDW-382",
            f"{what} {others[0].unit}, and is asked now with privacy={privacy.name} of each"
            f" {privacy.protects}.",
            "Ask who runs the server; a run keeps its privacy. Start another one.",
        )


@lru_cache(maxsize=1024)
def _account(where: str, silo: str, key: bytes) -> Account:
    """Return a silo's account, one for a process, so that what was read of it is read once."""
    return Account.at(where, silo, key)

"""A silo's round under sample-level privacy: what it costs is noted, and then it is trained.

The order is the point: nothing is drawn before the release is in the silo's account, and what leaves
is that release and nothing else of the examples.

    MDW-377 `privacy.test_seed` outside a simulation    MDW-378 a delta that allows to give examples away
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from flwr.app import Context

from client.cache import Loaded
from client.loop import Trained
from client.privacy import accountant, canaries, sample_dp
from client.privacy.account import Account, Entry
from client.silo_settings import data_key
from conf.errors import SiloError
from conf.schema import PrivacyConf, RunScope, SampleDpConf, Silo
from strategies.silo_half import Records, SiloHalf
from strategies.wire import protocol

SIMULATED: Final = "partition-id"
"""Of a node's configuration: there in simulations alone."""


def tells_metrics(privacy: PrivacyConf) -> bool:
    """Return whether a silo may tell metrics of its examples: not without noise, where there is a
    guarantee to be kept.
    """
    return not isinstance(privacy, SampleDpConf) or privacy.test_seed is not None


def train(
    loaded: Loaded,
    scope: RunScope,
    half: SiloHalf,
    context: Context,
    *,
    silo: Silo,
    run: str,
    round: int,
    state: Records,
    sent: Records,
) -> Trained:
    """Train the model in `loaded` for a round, with what it costs noted first.

    Raises SiloError MDW-371 to 373, 375 to 378, 386 and 388, CheckpointError MDW-540.
    """
    privacy = scope.privacy
    assert isinstance(privacy, SampleDpConf)
    simulated = SIMULATED in context.node_config
    # As this silo's machine carries it out.
    scope = replace(scope, trainer=loaded.trainer)
    sample_dp.check(loaded.model, loaded.task, half, scope, silo)
    examples = loaded.data.train
    planted = canaries.planted(examples, privacy, silo, scope.run.seed, simulated=simulated)
    if planted is not None:
        examples = planted.dataset
    plan = sample_dp.plan_for(scope, examples)
    _check_promise(privacy, plan.examples, silo, simulated)
    account = _account(silo.account, silo.name, data_key(context))
    if simulated or silo.policy.epsilon_at_most is None:
        # Whoever bounds what is spent begins the account: one that is gone must not begin at zero.
        account.begin()
    before = [one.release for one in account.entries() if one.run == run]
    release = sample_dp.release_of(scope, plan, before)
    entries = account.reserve(run, round, release, silo.policy)
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
            state=state,
            sent=sent,
        )
    return replace(trained, metrics={**trained.metrics, **_spent(entries, privacy.delta, release)})


def _spent(entries: Sequence[Entry], delta: float, release: accountant.Release) -> dict[str, float]:
    """Return what the run has cost at this silo so far, by the names of the wire."""
    releases = [entry.release for entry in entries]
    return {
        protocol.EPSILON: accountant.epsilon(releases, delta),
        protocol.RENYI_EPSILON: accountant.renyi_epsilon(releases, delta),
        protocol.NOISE: release.noise,
    }


def _check_promise(privacy: SampleDpConf, examples: int, silo: Silo, simulated: bool) -> None:
    if privacy.test_seed is not None and not simulated:
        what = (
            f"privacy.test_seed={privacy.test_seed}: {silo.name} is no simulation, and its noise is"
        )
        raise SiloError("MDW-377", f"{what} not known to anybody.", "Leave privacy.test_seed out.")
    if privacy.delta * examples > 1:
        what = f"privacy.delta={privacy.delta:g} is too large for {silo.name}: with it, one of its"
        hint = "Ask for a delta that is less than one in the number of examples of any silo."
        raise SiloError("MDW-378", f"{what} examples could be given away as it is.", hint)


@lru_cache(maxsize=1024)
def _account(where: str, silo: str, key: bytes) -> Account:
    """Return a silo's account, one for a process, so that what was read of it is read once."""
    return Account.at(where, silo, key)

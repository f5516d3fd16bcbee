"""A silo's round under silo-level or local privacy: its whole change of the model is clipped, and
with local privacy noise is added to it, before anything leaves.

The training is that of any other run (`client.loop`): a bound on what comes out of it needs none on
what happens inside. What is noted in the silo's account is noted before the training, and with the
relation under which it holds: any other data of this silo in the place of its own.

    MDW-377 `privacy.test_seed` outside a simulation, or a half that sends more than the model
    MDW-381 a server that does not say by how much to clip, or what noise it adds
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from client.loop import Trained
from client.privacy import accountant
from client.privacy.account import Account, Entry
from client.privacy.accountant import LEAST_NOISE, Release
from client.privacy.clipping import Start, add_noise, clip, salt
from client.privacy.noise_plan import noise_of
from client.privacy.noise_source import Seeds
from client.silo_round import SiloRound
from conf.errors import SiloError
from conf.privacy_kinds import sensitivity_of
from conf.schema import LocalDpConf, NoisyConf, RunScope, Silo, SiloDpConf
from strategies.wire import protocol


def train(asked: SiloRound, account: Account) -> Trained:
    """Train the model of a round, with what it costs noted first.

    Raises SiloError MDW-373, 375, 377, 378 or 381, CheckpointError MDW-540.
    """
    started = time.perf_counter()
    scope, model, silo, round = asked.scope, asked.loaded.model, asked.silo, asked.round
    privacy = scope.privacy
    assert isinstance(privacy, SiloDpConf | LocalDpConf)
    _check(scope, silo)
    before = [one for one in account.entries() if one.run == asked.run]
    norm, noise = _bounds(scope, round, before, asked.told)
    release = Release(1.0, noise / sensitivity_of(privacy.name), 1)
    entries = account.reserve(asked.run, round, release, silo.policy, privacy.name)
    start = Start.of(model, asked.half)
    trained = asked.trained()
    if trained.sent:
        what = f"{type(asked.half).__name__} sends more than the model, which has no bound."
        raise SiloError("MDW-377", what, "Use strategy=fedavg or fedprox.")
    within = clip(model, start, norm)
    metrics: dict[str, float] = {protocol.NUM_EXAMPLES: 1}
    seeds = Seeds(privacy.test_seed, silo.name, round)
    device = next(model.parameters()).device
    if isinstance(privacy, LocalDpConf):
        add_noise(model, start, noise * norm, seeds.generator("noise", device))
    else:
        salt(model, start, norm, seeds.generator("salt", device))
        if privacy.clipping == "adaptive":
            metrics[protocol.WITHIN_CLIP] = int(within)
    metrics |= spent(entries, privacy, noise)
    metrics[protocol.SECONDS] = time.perf_counter() - started
    return replace(trained, metrics=metrics, size=1)


def _bounds(
    scope: RunScope, round: int, before: Sequence[Entry], told: Mapping[str, Any]
) -> tuple[float, float]:
    """Return the norm to clip to, and the noise in units of it: its own, or that of the server."""
    asked = scope.privacy
    if isinstance(asked, LocalDpConf):
        left = max(scope.run.rounds - round + 1, 1)
        return asked.clip_norm, noise_left(asked, left, [one.release for one in before])
    found = []
    for key in (protocol.CLIP_NORM, protocol.SERVER_NOISE):
        value = told.get(key)
        if not isinstance(value, float) or not 0 < value < math.inf:
            what = f"The server says {key}={value!r:.40}, which is no norm and no noise."
            raise SiloError("MDW-381", what, "Run the same version of Meadow on both sides.")
        found.append(value)
    norm, noise = found
    assert isinstance(asked, SiloDpConf)
    if asked.clipping == "fixed" and norm != asked.clip_norm:
        what = f"The server says a norm of {norm:g}, and its run privacy.clip_norm={asked.clip_norm:g}."
        raise SiloError("MDW-381", what, "Ask who runs the server; the silo has trained nothing.")
    if noise < (asked.noise_multiplier or LEAST_NOISE):
        what = (
            f"The server says that it adds noise of {noise:g} times the norm, less than the run's."
        )
        raise SiloError("MDW-381", what, "Ask who runs the server; the silo has trained nothing.")
    return norm, noise


def noise_left(asked: NoisyConf, left: int, before: Sequence[Release]) -> float:
    """Return the noise of each round that is left, in units of the norm (`client.privacy.noise_plan`).

    Raises SiloError MDW-378.
    """
    noise = noise_of(asked, Release(1.0, 0.0, 1), left, before)
    # What the run names is in units of the norm already, and a release in those of its sensitivity.
    return noise if asked.noise_multiplier is not None else noise * sensitivity_of(asked.name)


def spent(entries: Sequence[Entry], asked: NoisyConf, noise: float) -> dict[str, float]:
    """Return what the run has cost at this silo so far, by the names of the wire."""
    releases = [entry.release for entry in entries]
    return {
        protocol.EPSILON: accountant.epsilon(releases, asked.delta),
        protocol.RENYI_EPSILON: accountant.renyi_epsilon(releases, asked.delta),
        protocol.NOISE: noise,
    }


def _check(scope: RunScope, silo: Silo) -> None:
    weighting = scope.strategy.weighting
    if weighting != protocol.EQUAL:
        what = (
            f"strategy.weighting={weighting} lets a silo's examples count, whose change is bounded."
        )
        raise SiloError("MDW-377", f"{silo.name}: {what}", "Use strategy.weighting=equal.")

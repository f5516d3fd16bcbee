"""Silo-level privacy at the server: by how much the silos clip, what noise their mean gets, and what
that has cost each silo so far.

The server is trusted: it sees each silo's clipped change. What is protected is a silo's data from
whoever gets the models, the other silos among them. The release is noted in the ledger, on disk,
before the noised mean exists; a round that is asked again after a crash has noise of its own and
costs again. Who is asked makes nothing cheaper: the choice follows from `run.seed`, which travels.

With clipping=adaptive the norm follows a quantile of the silos' norms by Andrew et al. 2021 (arXiv
1905.03871, algorithm 1): each silo says whether it was within the norm, and their count gets noise of
its own, which takes `privacy.count_share` of the privacy (their section 3.1, with replace-one in the
place of add-or-remove-one: both sensitivities are twice as large, and the formula stays).

    MDW-378 a delta that would give a silo away     MDW-413 a strategy whose mean can't have this noise
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from flwr.serverapp.strategy import Strategy

from client.privacy.accountant import Release, epsilon, renyi_epsilon
from client.privacy.clipped_round import noise_left
from conf.errors import RoundError, SiloError
from conf.privacy_kinds import REPLACE_ONE, SILO_DP, sensitivity_of
from conf.schema import Conf, SiloDpConf
from conf.seeds import seed_for
from server.run.ledger import Ledger
from strategies.algorithm import Algorithm, Arrays
from strategies.mean_noise import noised
from strategies.wire import protocol

WIDE: Final = sensitivity_of(SILO_DP)
SMALLEST_NORM: Final = 1e-9
LARGEST_NORM: Final = 1e9
"""Between which an adaptive norm stays, whatever the silos say."""


@dataclass
class SiloNoise:
    """The noise of one run's means; `strategy` keeps the norm, so that a checkpoint holds it."""

    asked: SiloDpConf
    rounds: int
    parameters: Collection[str]
    strategy: Algorithm
    ledger: Ledger
    noise: float = field(default=0.0, init=False)
    """Of this round, in units of the norm."""
    _facts: dict[str, float] = field(default_factory=dict, init=False)
    _round: int = field(default=0, init=False)
    _cohort: list[str] = field(default_factory=list, init=False)
    _within: dict[str, bool] = field(default_factory=dict, init=False)

    @property
    def clip_norm(self) -> float:
        """The norm to which the silos clip in this round."""
        kept: float = getattr(self.strategy, "clip_norm", self.asked.clip_norm)
        return kept

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise of each coordinate of the mean."""
        alone = 1.0
        if self.asked.clipping == "adaptive":
            alone = math.sqrt(1 - self.asked.count_share)
        return self.noise / alone * self.clip_norm / len(self._cohort)

    def begin(self, round: int, cohort: Sequence[str]) -> None:
        """Begin a round; raises SiloError MDW-378 where no noise keeps the run's epsilon."""
        self._round = round
        self._cohort = list(cohort)
        self._within.clear()
        self._facts = {}
        left = max(self.rounds - round + 1, 1)
        known = self._histories()
        histories = _longest([known.get(silo, []) for silo in cohort])
        self.noise = max(noise_left(self.asked, left, before) for before in histories)

    def told(self) -> dict[str, float]:
        """Return what the silos are told of the round."""
        return {protocol.CLIP_NORM: self.clip_norm, protocol.SERVER_NOISE: self.noise}

    def take(self, silo: str, metrics: dict[str, float]) -> None:
        """Take out of a silo's numbers what is for nobody but the noised count."""
        self._within[silo] = metrics.pop(protocol.WITHIN_CLIP, 0.0) == 1.0

    def refuse(self, silo: str) -> None:
        """Forget a silo whose update does not count after all."""
        self._within.pop(silo, None)

    def released(self, before: Arrays, mean: Arrays, replies: int) -> Arrays:
        """Return the mean with noise in it, once the release is on disk; see `MeanNoise`."""
        self.ledger.release_reserved(
            self._round,
            self._cohort,
            mechanism=SILO_DP,
            relation=REPLACE_ONE,
            noise=self.noise,
            clip_norm=self.clip_norm,
        )
        generator = self._generator()
        made, step_norm, weights = noised(
            before,
            mean,
            self.parameters,
            share=replies / len(self._cohort),
            deviation=self.deviation,
            generator=generator,
        )
        self._facts = {
            "clip_norm": self.clip_norm,
            "deviation": self.deviation,
            "noise_norm": self.deviation * math.sqrt(weights),
            "step_norm": step_norm,
        }
        if self.asked.clipping == "adaptive":
            self._follow(generator)
        return made

    def spent(self) -> dict[str, dict[str, float]]:
        """Return by silo what the run has cost it so far, of all that were asked."""
        found = {}
        for silo, releases in sorted(self._histories().items()):
            found[silo] = {
                "epsilon": epsilon(releases, self.asked.delta),
                "epsilon_renyi": renyi_epsilon(releases, self.asked.delta),
                "noise_multiplier": releases[-1].noise * WIDE,
            }
        return found

    def facts(self) -> dict[str, float]:
        """Return how large the round's noise is beside the step that it is in."""
        return self._facts

    def _histories(self) -> dict[str, list[Release]]:
        """Return by silo the releases of the rounds in which it was asked."""
        found: dict[str, list[Release]] = {}
        for facts in self.ledger.releases:
            release = Release(1.0, float(facts["noise"]) / WIDE, 1)
            for silo in facts["silos"]:
                found.setdefault(silo, []).append(release)
        return found

    def _generator(self) -> np.random.Generator:
        drawn = secrets.randbits(128)
        if self.asked.test_seed is not None:
            drawn = seed_for(self.asked.test_seed, "server", self._round, "noise")
        return np.random.Generator(np.random.Philox(key=drawn))

    def _follow(self, generator: np.random.Generator) -> None:
        """Move the norm towards the quantile, by the noised share of silos that were within it."""
        silos = len(self._cohort)
        # Around 0, so that one which has not answered counts as neither.
        count = sum(0.5 if within else -0.5 for within in self._within.values())
        deviation = self.noise / (2 * math.sqrt(self.asked.count_share))
        share = (count + generator.normal(0.0, deviation)) / silos + 0.5
        step = math.exp(-self.asked.clip_lr * (min(max(share, 0.0), 1.0) - self.asked.quantile))
        norm = min(max(self.clip_norm * step, SMALLEST_NORM), LARGEST_NORM)
        self.strategy.clip_norm = norm


def silo_noise_of(
    conf: Conf, strategy: Strategy, silos: int, parameters: Collection[str], ledger: Ledger
) -> SiloNoise | None:
    """Return the noise of a run and give it to its strategy; None without silo-level privacy.

    Raises RoundError MDW-413, SiloError MDW-378.
    """
    asked = conf.privacy
    if not isinstance(asked, SiloDpConf):
        return None
    check_silo_noise(conf, strategy, silos)
    assert isinstance(strategy, Algorithm)
    if asked.clipping == "adaptive":
        strategy.clip_norm = asked.clip_norm
    made = SiloNoise(asked, conf.run.rounds, parameters, strategy, ledger)
    strategy.noise = made
    return made


def check_silo_noise(conf: Conf, strategy: Strategy, silos: int) -> None:
    """Raise RoundError MDW-413 or SiloError MDW-378 where a run can't have silo-level privacy."""
    asked = conf.privacy
    if not isinstance(asked, SiloDpConf):
        return
    name = conf.strategy.name
    if not _is_a_plain_mean(strategy):
        raise RoundError(
            "MDW-413",
            f"strategy={name} does not go with privacy=silo_dp: the noise is that of a plain mean of"
            " the silos' changes, and of nothing beside it.",
            "Use strategy=fedavg or fedprox.",
        )
    if asked.delta * silos > 1:
        raise SiloError(
            "MDW-378",
            f"privacy.delta={asked.delta:g} is too large for {silos} silos: with it, one of them could"
            " be given away as it is.",
            "Ask for a delta that is less than one in the number of silos.",
        )


def _is_a_plain_mean(strategy: Strategy) -> bool:
    return (
        isinstance(strategy, Algorithm)
        and type(strategy).aggregate_train is Algorithm.aggregate_train
        and type(strategy).weight is Algorithm.weight
        and not strategy.extra
    )


def _longest(histories: Sequence[Sequence[Release]]) -> list[list[Release]]:
    """Return those histories that are not part of another: what bounds these bounds all."""
    counted: dict[frozenset[tuple[Release, int]], list[Release]] = {}
    for one in histories:
        counted.setdefault(frozenset(Counter(one).items()), list(one))
    kept: list[list[Release]] = []
    for one in sorted(counted.values(), key=len, reverse=True):
        if not any(Counter(one) <= Counter(other) for other in kept):
            kept.append(one)
    return kept

"""What releases cost together: (epsilon, delta) of steps of the sampled Gaussian mechanism.

Of a step on all examples or all silos (rate 1) the cost depends on nothing but the noise in units of
how far two neighbours are apart, whatever makes them neighbours (`conf.privacy_kinds`); a sampled
one's relation is add-or-remove-one. Who calls sees to it that all releases of a sum hold for one
relation. What is computed here comes from dp-accounting: by privacy loss distributions (Koskela et al. 2020, arXiv
1906.03049; Doroshenko et al. 2022, arXiv 2207.04380), which is what counts, and beside it by Rényi
divergences (Mironov 2017, arXiv 1702.07476), which is looser and older. Both are upper bounds.

    MDW-375 the packages of the extra `privacy` are not installed
    MDW-378 an epsilon that no noise gives
"""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from conf.errors import SiloError

LOSS_GRID: Final = 1e-3
"""Width of the steps in which the privacy loss is counted, rounded up: for 150 steps of 32 of 480
examples the noise for epsilon = 4 comes out .001 % larger than with a tenth of it, in a fifteenth of
the time.
"""
LEAST_NOISE: Final = 0.2
"""Noise multiplier below which no guarantee is worth its name; a larger epsilon gets no less."""
MOST_NOISE: Final = 1e4
ORDERS: Final = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 128, 256, 512)
"""Of the Rényi divergences that are looked at."""


@dataclass(frozen=True)
class Release:
    """Steps of the sampled Gaussian mechanism whose outcome is released together.

    Each draws every example, or silo, with probability `rate`, and adds Gaussian noise of standard
    deviation `noise` times their sum's sensitivity: of DP-SGD (Abadi et al. 2016, arXiv 1607.00133)
    that is the norm to which a gradient is clipped; of a silo's change, which another one of that
    norm may replace, twice the norm.
    """

    rate: float
    noise: float
    steps: int


def epsilon(releases: Iterable[Release], delta: float, replaced: Iterable[Release] = ()) -> float:
    """Return the epsilon of all of these together at a `delta`, 0 of none; it may be infinite.

    Of those that are `replaced` the neighbours differ by another unit in the place of one, twice the
    sensitivity away (Lebeda et al. 2024, arXiv 2405.20769, have the pair for sampled units). Where
    there are both, each sum has half of the delta, and the two are added (basic composition, Dwork &
    Roth 2014, theorem 3.16).
    Raises SiloError MDW-375 where dp-accounting is not installed.
    """
    noted, others = _counted(releases), _counted(replaced)
    if noted and others:
        delta = delta / 2
    return _epsilon("pld", noted, delta) + _epsilon("pld-replaced", others, delta)


def renyi_epsilon(releases: Iterable[Release], delta: float) -> float:
    """Return the same by Rényi divergences: never less than what holds, mostly more than `epsilon`."""
    return _epsilon("rdp", _counted(releases), delta)


@lru_cache(maxsize=4096)
def noise_for(
    rate: float, steps: int, epsilon: float, delta: float, before: tuple[Release, ...] = ()
) -> float:
    """Return the least noise multiplier with which `steps` at a `rate`, on top of what was released
    `before`, cost at most `epsilon`.

    Raises SiloError MDW-375, and MDW-378 where even the largest noise costs more.
    """
    accounting = _accounting()

    def together(noise: float) -> Any:
        made = [_event(accounting, one) for one in _counted(before)]
        return accounting.ComposedDpEvent([*made, _event(accounting, Release(rate, noise, steps))])

    if _spent(_accountant("pld"), together(MOST_NOISE), delta) > epsilon:
        raise SiloError(
            "MDW-378",
            f"No noise makes {steps} steps at a rate of {rate:g} cost at most an epsilon of {epsilon:g}"
            f"{', with what the run has released before' if before else ''}.",
            "Ask for a larger privacy.epsilon, a smaller batch, or fewer rounds.",
        )

    def is_enough(noise: float) -> bool:
        return _spent(_accountant("pld"), together(noise), delta) <= epsilon

    low, high = _bracket(is_enough)
    if low == high:
        return LEAST_NOISE
    return float(
        accounting.calibrate_dp_mechanism(
            lambda: _accountant("pld"),
            together,
            epsilon,
            delta,
            accounting.ExplicitBracketInterval(low, high),
            tol=1e-4,
        )
    )


def _bracket(is_enough: Callable[[float], bool]) -> tuple[float, float]:
    """Return two noises of which the larger is enough and the other is not; LEAST_NOISE twice where
    that is enough.

    From 1 on in factors of two: the less noise there is, the longer it takes to count, and the least
    of all takes as long as a whole search.
    """
    noise = 1.0
    if is_enough(noise):
        while noise > LEAST_NOISE:
            less = max(noise / 2, LEAST_NOISE)
            if not is_enough(less):
                return less, noise
            noise = less
        return LEAST_NOISE, LEAST_NOISE
    while not is_enough(2 * noise):
        noise *= 2
    return noise, 2 * noise


def _counted(releases: Iterable[Release]) -> tuple[Release, ...]:
    """Return releases of one kind as one of all their steps: what they cost depends on no order."""
    steps: Counter[tuple[float, float]] = Counter()
    for one in releases:
        steps[one.rate, one.noise] += one.steps
    return tuple(Release(rate, noise, n) for (rate, noise), n in sorted(steps.items()))


@lru_cache(maxsize=4096)
def _epsilon(kind: str, releases: tuple[Release, ...], delta: float) -> float:
    if not releases:
        return 0.0
    accounting = _accounting()
    event = accounting.ComposedDpEvent([_event(accounting, one) for one in releases])
    return _spent(_accountant(kind), event, delta)


def _spent(accountant: Any, event: Any, delta: float) -> float:
    # It says of each order that does not converge that it leaves it out, which costs tightness alone.
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Of an epsilon beyond what a float holds it says that it overflows, and gives infinity.
        with np.errstate(over="ignore"):
            accountant.compose(event)
            return float(accountant.get_epsilon(delta))
    finally:
        logger.setLevel(before)


def _event(accounting: Any, release: Release) -> Any:
    step = accounting.GaussianDpEvent(release.noise)
    if release.rate < 1:
        step = accounting.PoissonSampledDpEvent(release.rate, step)
    return accounting.SelfComposedDpEvent(step, release.steps)


def _accountant(kind: str) -> Any:
    accounting = _accounting()
    relations = accounting.NeighboringRelation
    relation = relations.REPLACE_ONE if kind == "pld-replaced" else relations.ADD_OR_REMOVE_ONE
    if kind in ("pld", "pld-replaced"):
        module = importlib.import_module("dp_accounting.pld.pld_privacy_accountant")
        return module.PLDAccountant(relation, value_discretization_interval=LOSS_GRID)
    module = importlib.import_module("dp_accounting.rdp.rdp_privacy_accountant")
    return module.RdpAccountant(orders=ORDERS, neighboring_relation=relation)


def _accounting() -> Any:
    return needed("dp_accounting")


def needed(module: str) -> Any:
    """Return a module of the extra `privacy`; raises SiloError MDW-375 where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SiloError(
            "MDW-375",
            f"Training with a privacy guarantee needs {module}, which can't be imported: {error}.",
            "Install it with Meadow: pip install '.[privacy]' in the folder of Meadow's source.",
        ) from error

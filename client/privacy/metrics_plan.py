"""Which evaluations of a private run are told, and how much noise each of them has.

Both follow from the run's configuration and are fixed before round 1: of validation examples each
`privacy.metrics_every`-th round and the last one, of test examples one evaluation. All of them
together cost at most `privacy.metrics_epsilon`, and the training gets the noise with which it and all
of them cost at most `privacy.epsilon`. One that was made has spent its part, whatever became of it.

    MDW-378 no noise, or only a useless one, keeps the evaluations within their epsilon
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from client.privacy.accountant import Release, epsilon
from client.privacy.noise_plan import noise_of
from conf.errors import SiloError
from conf.schema import RunScope, SampleDpConf
from strategies.wire import protocol

TESTS: Final = 1
"""Evaluations on test examples, at the end of a run."""
_ONE: Final = Release(1.0, 0.0, 1)
"""Every example of a split is in an evaluation of it."""


def is_due(asked: SampleDpConf, rounds: int, round: int, split: str) -> bool:
    """Return whether an evaluation is told: of a split after a round, in a run of so many."""
    return split == protocol.TEST or round == rounds or round % asked.metrics_every == 0


def planned(asked: SampleDpConf, rounds: int) -> int:
    """Return how many evaluations of a run are told, at most."""
    if not asked.noises_metrics:
        return 0
    return -(-rounds // asked.metrics_every) + TESTS


def all_releases(asked: SampleDpConf, rounds: int, made: Sequence[Release]) -> list[Release]:
    """Return the evaluations that a run tells: those that were made, and those that are to come.

    Raises SiloError MDW-375 or 378.
    """
    left = planned(asked, rounds) - len(made)
    release = _next(asked, left, made)
    return list(made) if release is None else [*made, *[release] * left]


def next_release(
    scope: RunScope, made: Sequence[Release], trained: Sequence[Release]
) -> Release | None:
    """Return what the next evaluation releases, after those that were `made` and the rounds that were
    `trained`; None where the run has no further one, or has spent its epsilon.

    Raises SiloError MDW-375 or 378.
    """
    asked = scope.privacy
    assert isinstance(asked, SampleDpConf)
    left = planned(asked, scope.run.rounds) - len(made)
    release = _next(asked, left, made)
    if release is None or asked.epsilon is None:
        return release
    together = epsilon([*trained, *made, release], asked.delta)
    return release if together <= asked.epsilon else None


def _next(asked: SampleDpConf, left: int, made: Sequence[Release]) -> Release | None:
    """Return each of those that are left; None where there is none, or where a run that is continued
    has spent its part: it goes on training, and tells no more.
    """
    if left <= 0:
        return None
    alone = replace(asked, epsilon=asked.metrics_epsilon, noise_multiplier=None)
    try:
        return replace(_ONE, noise=noise_of(alone, _ONE, left, made))
    except SiloError as error:
        if error.code != "MDW-378" or not made:
            raise
        return None

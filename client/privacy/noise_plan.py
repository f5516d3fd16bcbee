"""How much noise each release of a run has that is still to come, whatever the kind of its privacy.

MDW-378 no noise, or only a useless one, keeps the run within its epsilon
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from client.privacy.accountant import Release, epsilon, noise_for
from conf.errors import SiloError
from conf.schema import NoisyConf

MOST_TIMES: Final = 10.0
"""The noise of the rounds before: with more, one round would undo what all others have learned."""


def noise_of(
    asked: NoisyConf,
    round: Release,
    left: int,
    before: Sequence[Release] = (),
    beside: Sequence[Release] = (),
) -> float:
    """Return the noise multiplier of each round that is left: what the run names, or what `left` of
    them need for its epsilon, on top of what was released `before` and of what else the run releases
    `beside` them.

    `round` is one of them with whatever noise. The noise of those before is kept as long as it is
    enough: it is not where a run is resumed for more rounds, a round was trained twice, or examples
    have gone. Raises SiloError MDW-378, MDW-375.
    """
    if asked.noise_multiplier is not None:
        return asked.noise_multiplier
    if asked.epsilon is None:
        what = "The run names neither an epsilon nor a noise."
        raise SiloError("MDW-378", what, "Give privacy.epsilon or privacy.noise_multiplier.")
    if before:
        same = replace(round, noise=before[-1].noise)
        if epsilon([*before, *beside, *[same] * left], asked.delta) <= asked.epsilon:
            return same.noise
    others = (*before, *beside)
    noise = noise_for(round.rate, round.steps * left, asked.epsilon, asked.delta, others)
    if before and noise > MOST_TIMES * before[-1].noise:
        raise SiloError(
            "MDW-378",
            f"The run has spent its epsilon of {asked.epsilon:g}: {left} rounds are left, and would need"
            f" {noise / before[-1].noise:.0f} times the noise of those before.",
            "Its last model is the one that there is; start a run with more rounds or a larger epsilon.",
        )
    return noise

"""The mean of clipped changes with Gaussian noise in it: what silo-level privacy releases of a round.

McMahan et al. 2018 (arXiv 1710.06963, algorithm 1): the sum of the silos' changes, each of at most a
norm C, is divided by a number that is fixed before the round, here the silos that are asked, and gets
noise of standard deviation z C over the same number. So a silo that does not answer counts as one
that changed nothing, and nothing depends on how many have answered. What is not bounded by the norm
(buffers, counters) stays what it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

CHUNK: Final = 1 << 18
"""Values a step: buffers of 2 MiB in float64."""


class MeanNoise(Protocol):
    """What stands between the mean of a round's updates and the algorithm's own step."""

    def released(self, before: Arrays, mean: Arrays, replies: int) -> Arrays:
        """Return what may be known of the mean of so many updates of the model `before`."""


def noised(
    before: Arrays,
    mean: Arrays,
    parameters: Collection[str],
    *,
    share: float,
    deviation: float,
    generator: np.random.Generator,
) -> tuple[dict[str, NDArray[Any]], float, int]:
    """Return before + share * (mean - before) + noise of each parameter, the norm of that step, and
    how many weights it has.

    `share` is the part of the silos that answered, `deviation` the noise of each coordinate. All
    else is as it was before.
    """
    released: dict[str, NDArray[Any]] = {}
    squares = 0.0
    weights = 0
    for name in mean:
        old = np.asarray(before[name])
        if name not in parameters or old.dtype.kind != "f":
            released[name] = old
            continue
        made = np.empty(old.size, old.dtype)
        weights += old.size
        flat = old.reshape(-1)
        new = np.asarray(mean[name]).reshape(-1)
        for at in range(0, flat.size, CHUNK):
            here = slice(at, at + CHUNK)
            step = new[here].astype(np.float64) - flat[here]
            step *= share
            step += generator.normal(0.0, deviation, step.size)
            squares += float(np.square(step).sum())
            made[here] = flat[here] + step
        released[name] = made.reshape(old.shape)
    return released, squares**0.5, weights

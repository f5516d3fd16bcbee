"""95 % intervals of what counts give, by the Poisson bootstrap.

Of a bootstrap that draws each example a Poisson(1) number of times, the counts of a cell with n
examples are Poisson(n), whoever holds them: sums of independent Poisson numbers are one. So the
counts of all silos together are all that it needs, and no silo is asked again. It holds where each
example is counted in one cell of what is drawn. It says how far the figure would move with other
examples of the same silos, drawn one by one: not what another silo would bring, and of a patient
with many images too little.

Real sums are drawn too (`of_moments`): of many examples what such a bootstrap adds up is normal, with
a mean and a covariance that are themselves sums over silos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import torch
from torch import Tensor

REPLICATES: Final = 400
SEED: Final = 20_130_521
"""The same counts give the same interval, whoever draws it."""
ENDS: Final = (2.5, 97.5)
ENOUGH: Final = 30

Interval = list[float]
"""From, to."""


def intervals(
    counts: Tensor, measures: Callable[[Tensor], dict[str, float]]
) -> dict[str, Interval]:
    """Return, of each measure of counts (int64, any shape), the interval that holds 95 % of its
    values in the bootstrap; without those that are not defined in most of it.
    """
    random = np.random.default_rng(SEED)
    means = counts.numpy().astype(np.float64)
    return _held(
        measures(torch.from_numpy(random.poisson(means).astype(np.int64)))
        for _ in range(REPLICATES)
    )


def of_moments(
    moments: Tensor, measures: Callable[[Tensor], dict[str, float]]
) -> dict[str, Interval]:
    """Return, of each measure of sums (float64, width), its interval; `moments` (width, width) are
    the sums of their products by twos over examples, and in the first row the sums themselves.
    Nothing of fewer than 30 examples, whose sums are not normal.
    """
    found = moments.numpy()
    if found[0, 0] < ENOUGH:
        return {}
    # Sums of very unlike sizes: to one scale, in which the covariance has its root.
    size = np.sqrt(np.diag(found))
    scaled = found / np.outer(np.where(size > 0, size, 1), np.where(size > 0, size, 1))
    values, vectors = np.linalg.eigh(scaled)
    root = vectors * np.sqrt(values.clip(min=0))
    normal = np.random.default_rng(SEED).standard_normal((REPLICATES, len(found)))
    drawn = found[0] + (normal @ root.T) * size
    return _held(measures(torch.from_numpy(row)) for row in drawn)


def _held(replicates: Iterable[dict[str, float]]) -> dict[str, Interval]:
    found: dict[str, list[float]] = {}
    for measured in replicates:
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    return {
        name: [float(end) for end in np.nanpercentile(values, ENDS)]
        for name, values in found.items()
        if np.isfinite(values).mean() > 0.5
    }

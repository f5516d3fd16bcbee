"""95 % intervals of what counts give, by the Poisson bootstrap.

Of a bootstrap that draws each example a Poisson(1) number of times, the counts of a cell with n
examples are Poisson(n), whoever holds them: sums of independent Poisson numbers are one. So the
counts of all silos together are all that it needs, and no silo is asked again. It holds where each
example is counted in one cell of what is drawn. It says how far the figure would move with other
examples of the same silos, drawn one by one: not what another silo would bring, and of a patient
with many images too little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

REPLICATES: Final = 400
SEED: Final = 20_130_521
"""The same counts give the same interval, whoever draws it."""
ENDS: Final = (2.5, 97.5)

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
    found: dict[str, list[float]] = {}
    for _ in range(REPLICATES):
        drawn = torch.from_numpy(random.poisson(means).astype(np.int64))
        for name, value in measures(drawn).items():
            found.setdefault(name, []).append(value)
    return {
        name: [float(end) for end in np.nanpercentile(values, ENDS)]
        for name, values in found.items()
        if np.isfinite(values).mean() > 0.5
    }

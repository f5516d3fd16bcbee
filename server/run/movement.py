"""What a round's record says of how much each silo moved the model, and who owns it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from server.run.result import Metrics

NORM: Final = "update-norm"
"""The L2 norm of a silo's change of the model."""
SHARE: Final = "update-share"
"""What a silo's update weighs, as a share of the round's weights."""
COSINE: Final = "update-cosine"
"""The cosine of the angle between a silo's change and the round's mean change, as two sketches have
it (`server.round.sketch`): its standard error is 0.022.
"""
OWNS: Final = 0.9
"""The share of a round's movement from which one silo is said to own the model."""
FEWEST: Final = 3
"""Updates in a round below which nobody is called its owner: of two silos one may be the larger."""


def moved_by(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Return by silo its share of a round's movement: weight times norm, of all of these.

    A silo that the strategy's rule left out is not among them: where Krum takes one, it owns nothing.
    """
    pulls: dict[str, float] = {}
    for silo, said in metrics.items():
        norm = said.get(NORM)
        share = said.get(SHARE)
        # What JSON has no word for is null in a history that is read back.
        if norm is not None and share and math.isfinite(norm):
            pulls[silo] = share * norm
    total = sum(pulls.values())
    if not 0.0 < total < math.inf:
        return {}
    return {silo: pull / total for silo, pull in pulls.items()}


def owner_of(metrics: Mapping[str, Metrics]) -> str | None:
    """Return the one silo that moved the model by `OWNS` or more, None where there is none."""
    return owner_among(moved_by(metrics))


def owner_among(moved: Mapping[str, float]) -> str | None:
    """Return the owner of a round of which `moved_by` is known."""
    if len(moved) < FEWEST:
        return None
    silo = max(sorted(moved), key=lambda name: moved[name])
    return silo if moved[silo] >= OWNS else None

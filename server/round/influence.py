"""How much of a round each silo is: what it weighs, how far it went, and in which direction.

A mean says nothing of who made it. A silo whose update is a thousand times as long as the others'
has the model to itself, whether it lies or has forgotten to scale its data; here it is named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from server.round.judgement import Admitted
from server.round.sketch import WIDTH, cosine
from server.run.movement import COSINE, NORM, SHARE, moved_by, owner_of
from server.run.result import Metrics

log = logging.getLogger(__name__)


class Influence:
    """What each admitted update of a round is of the whole; 8 KiB are held of each."""

    def __init__(self) -> None:
        self._admitted: dict[str, Admitted] = {}

    def add(self, silo: str, verdict: Admitted) -> None:
        """Note an admitted update."""
        self._admitted[silo] = verdict

    def admitted(self, silo: str) -> Admitted:
        """Return what admission said of an update that was noted."""
        return self._admitted[silo]

    def remove(self, silo: str) -> None:
        """Forget an update that was refused after all."""
        self._admitted.pop(silo, None)

    def metrics(self, shares: Mapping[str, float] | None = None) -> dict[str, Metrics]:
        """Return by silo what its record says of its update, where there are norms.

        `shares` say how much each counted, where the strategy does not weigh by the updates' weights.
        """
        if shares is None:
            shares = self._by_weight()
        mean = self._mean_direction(shares)
        found: dict[str, Metrics] = {}
        for silo, verdict in self._admitted.items():
            if verdict.norm is None or silo not in shares:
                continue
            found[silo] = {NORM: verdict.norm, SHARE: shares[silo]}
            angle = None if verdict.sketch is None else cosine(verdict.sketch, mean)
            if angle is not None:
                found[silo][COSINE] = angle
        return found

    def _by_weight(self) -> dict[str, float]:
        total = sum(verdict.weight for verdict in self._admitted.values())
        if not total:
            return {}
        return {silo: verdict.weight / total for silo, verdict in self._admitted.items()}

    def _mean_direction(self, shares: Mapping[str, float]) -> np.ndarray:
        """Return the sketch of the round's mean change, of some length."""
        mean = np.zeros(WIDTH)
        counted = {silo: v for silo, v in self._admitted.items() if silo in shares}
        longest = max((shares[s] * (v.norm or 0.0) for s, v in counted.items()), default=0.0)
        if not 0.0 < longest < math.inf:
            return mean
        # In the order of the names: the sum of floats must not depend on who came first.
        for silo, verdict in sorted(counted.items()):
            if verdict.sketch is not None and verdict.norm is not None:
                mean += (shares[silo] * verdict.norm / longest) * verdict.sketch
        return mean


def warn_of_owner(round: int, metrics: Mapping[str, Metrics]) -> str | None:
    """Log that one silo owns the model, and return its name; None where no silo does."""
    owner = owner_of(metrics)
    if owner is not None:
        log.warning(
            "round %d: %s moved the model by %.0f %% of all movement (its update weighs %.0f %%"
            " and has the norm %.4g). Look at its data and its scale, or bound updates with"
            " run.admission.norm_at_most and run.admission.norm_times_median",
            round,
            owner,
            100 * moved_by(metrics)[owner],
            100 * metrics[owner][SHARE],
            metrics[owner][NORM],
        )
    return owner


def median_norm(metrics: Mapping[str, Metrics]) -> float | None:
    """Return the median of the norms of a round's updates; None where there are none."""
    norms = [said[NORM] for said in metrics.values() if math.isfinite(said.get(NORM, math.nan))]
    return float(np.median(norms)) if norms else None

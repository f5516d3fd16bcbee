"""What the noise of a private run will be beside what it is to hide, said before anything is trained.

The noise of silo-level and local privacy does not shrink with a silo's examples, only with the number
of silos; and it is in every weight, so that its norm grows with the square root of their number, and
that of a change does not. With few silos a run ends, and its model is noise.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Final

from client.privacy.clipped_round import noise_left
from conf.schema import Conf, LocalDpConf, SiloDpConf

log = logging.getLogger(__name__)

FEWEST: Final = 100
"""Silos in a round below which this noise is warned of."""


@dataclass(frozen=True)
class Outlook:
    """The noise in the mean of a round's changes."""

    noise: float
    """At its source, in units of the clipping norm."""
    deviation: float
    """In each weight of the mean."""
    silos: int
    clip_norm: float

    def norm(self, weights: int) -> float:
        """Return the norm of the noise in all of them, on average."""
        return self.deviation * math.sqrt(weights)


def outlook(conf: Conf, silos: int) -> Outlook | None:
    """Return what the noise in a round's mean of a run will be; None where it is that of examples.

    Raises SiloError MDW-375 or 378.
    """
    asked = conf.privacy
    if not isinstance(asked, SiloDpConf | LocalDpConf):
        return None
    noise = noise_left(asked, conf.run.rounds, ())
    # The server adds noise once to the sum, and each silo once to its part of it.
    times = 1.0 if isinstance(asked, SiloDpConf) else math.sqrt(silos)
    return Outlook(noise, noise * asked.clip_norm * times / silos, silos, asked.clip_norm)


def say_outlook(conf: Conf, silos: int, weights: int) -> None:
    """Log the noise beside the longest mean change; with few silos as a warning."""
    found = outlook(conf, silos)
    if found is None:
        return
    level = logging.WARNING if silos < FEWEST else logging.INFO
    few = f"; below {FEWEST} silos such a model is mostly noise" if silos < FEWEST else ""
    log.log(
        level,
        "privacy=%s, %d silos in a round: noise of %.3g in each of %s weights of their mean, of norm"
        " %.3g in all, beside a mean change of norm %.3g at most%s (docs/privacy.md)",
        conf.privacy.name,
        silos,
        found.deviation,
        f"{weights:,}",
        found.norm(weights),
        found.clip_norm,
        few,
    )

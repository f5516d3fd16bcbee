"""When to stop: no improvement of an aggregate metric for `patience` rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.errors import ConfigError
from conf.schema import EarlyStopConf
from conf.schema_keys import nearest
from server.run.result import Metrics


@dataclass
class EarlyStop:
    """The best value so far and the rounds since; part of a checkpoint."""

    conf: EarlyStopConf
    best: float | None = None
    since: int = 0

    @property
    def stopped(self) -> bool:
        """Return whether patience has run out."""
        return self.conf.patience is not None and self.since >= self.conf.patience

    def take(self, aggregate: Metrics) -> None:
        """Take in a round's aggregate metrics; NaN counts as no improvement.

        Raises ConfigError MDW-107 where there is no such metric.
        """
        if self.conf.patience is None:
            return
        if self.conf.metric not in aggregate:
            raise ConfigError(
                "MDW-107",
                f"run.early_stop.metric={self.conf.metric}: the rounds of this run have no such"
                " metric.",
                nearest(self.conf.metric, aggregate),
            )
        value = aggregate[self.conf.metric]
        sign = 1 if self.conf.mode == "min" else -1
        if not math.isnan(value) and (
            self.best is None or sign * (self.best - value) > self.conf.min_delta
        ):
            self.best, self.since = value, 0
        else:
            self.since += 1

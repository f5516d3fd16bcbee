"""When to stop: no improvement of an aggregate metric for `patience` rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.schema import EarlyStopConf
from server.result import Metrics


@dataclass
class EarlyStop:
    """The best value so far and the rounds since; part of a checkpoint."""

    conf: EarlyStopConf
    best: float | None = None
    since: int = 0

    def should_stop(self, aggregate: Metrics) -> bool:
        """Take in a round's aggregate metrics; return True when patience has run out.

        A round without the metric, or with NaN, counts as one without improvement.
        """
        if self.conf.patience is None:
            return False
        value = aggregate.get(self.conf.metric, math.nan)
        sign = 1 if self.conf.mode == "min" else -1
        if not math.isnan(value) and (self.best is None or sign * (self.best - value) > self.conf.min_delta):
            self.best, self.since = value, 0
        else:
            self.since += 1
        return self.since >= self.conf.patience

"""When to stop: no improvement of what chooses for `patience` rounds."""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema import EarlyStopConf
from server.round.choice import Choice
from server.run.result import Metrics


@dataclass
class EarlyStop:
    """The best value so far and the rounds since; part of a checkpoint."""

    conf: EarlyStopConf
    choice: Choice | None
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
        if self.conf.patience is None or self.choice is None:
            return
        value = self.choice.value(aggregate)
        if self.choice.better(value, self.best, by=self.conf.min_delta):
            self.best = value
            self.since = 0
        else:
            self.since += 1

"""The evaluations of a phase put together: the metrics of all silos' examples, with noise in their sums
or without.

Noised sums are added up before anything is made of them: what is below 0 at one silo and above it at
another cancels out, and would not once each is cut off at 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from client import sums
from client.privacy.noised_sums import NoisedSums
from client.tasks.base import Task
from server.round.phase import Evaluated, metrics_of_union, only_loss
from server.run.result import Metrics


@dataclass
class Gathered:
    """What the silos of a phase have told of their examples; `noised` is the form of noised sums."""

    task: Task
    noised: NoisedSums | None = None
    union: sums.Union = field(default_factory=sums.Union)
    _without: list[frozenset[str]] = field(default_factory=list)
    _noise_squares: float = 0.0

    def add(self, silo: str, said: Evaluated) -> None:
        """Add what a silo has told; nothing where it has told no sums."""
        if said.sums is None:
            return
        self.union.add(silo, said.sums)
        self._without.append(said.without)
        self._noise_squares += said.noise**2

    def metrics(self) -> Metrics:
        """Return the metrics of all of them together; empty of none."""
        if not self._without:
            return {}
        if self.noised is None:
            return metrics_of_union(self.task, self.union, self._without)
        form = self.noised
        noise = math.sqrt(self._noise_squares)
        return only_loss(self.task, lambda: form.metrics(self.union.total(), noise), dict)

"""The weighted means of the numbers that silos report beside their updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction


class MetricMeans:
    """Example-weighted means of the metrics that every reply has: the same bits in any order.

    A value that is not finite is left out of its mean, with the weight of its reply: one silo whose
    loss is NaN does not take the loss from all.
    """

    def __init__(self) -> None:
        self.weight = 0
        self._count = 0
        self._sums: dict[str, Fraction] = {}
        self._weights: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def add(self, metrics: Mapping[str, object], weight: int) -> None:
        """Fold one reply's metrics in; lists and other values that are no number are left out."""
        self._count += 1
        self.weight += weight
        for name, value in metrics.items():
            if not isinstance(value, int | float):
                continue
            self._seen[name] = self._seen.get(name, 0) + 1
            if math.isfinite(value):
                self._sums[name] = self._sums.get(name, Fraction(0)) + weight * Fraction(value)
                self._weights[name] = self._weights.get(name, 0) + weight

    def result(self) -> dict[str, float]:
        """Return the means by name, sorted; NaN where no reply had a value that is finite."""
        common = sorted(name for name, seen in self._seen.items() if seen == self._count)
        return {name: self._mean(name) for name in common} if self.weight else {}

    def _mean(self, name: str) -> float:
        if name not in self._weights:
            return math.nan
        return float(self._sums[name] / self._weights[name])

"""What a threshold does, and one that was chosen: plain values, for pages and files too.

Without torch: a page of a run is made in less time than torch takes to be imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

IN_A_THOUSAND: Final = 1000


@dataclass(frozen=True)
class Outcome:
    """What a threshold does: positives and negatives that it calls positive, of so many."""

    true_positives: int
    false_positives: int
    positives: int
    negatives: int

    @property
    def sensitivity(self) -> float:
        """The share of positives that it finds, also recall."""
        return share(self.true_positives, self.positives)

    @property
    def specificity(self) -> float:
        """The share of negatives that it leaves alone."""
        return share(self.negatives - self.false_positives, self.negatives)

    @property
    def precision(self) -> float:
        """The share of positives among what it calls positive."""
        return share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def alarms(self) -> float:
        """The false positives in 1,000 examples."""
        return IN_A_THOUSAND * share(self.false_positives, self.positives + self.negatives)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold of the score (log-odds, or a label's logit), by which rule it was chosen, and
    what it did to the examples that chose it.
    """

    rule: str
    at: float
    threshold: float
    outcome: Outcome

    @property
    def probability(self) -> float:
        """The probability that the score stands for, as the model says it."""
        return (1 + math.tanh(self.threshold / 2)) / 2

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"rule": self.rule, "at": self.at, "threshold": self.threshold} | {
            "outcome": vars(self.outcome)
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> OperatingPoint:
        """Return what `to_json` gave; raises KeyError or TypeError for anything else."""
        return OperatingPoint(raw["rule"], raw["at"], raw["threshold"], Outcome(**raw["outcome"]))


def share(part: int, whole: int) -> float:
    """Return part / whole; NaN of nothing."""
    return part / whole if whole else math.nan

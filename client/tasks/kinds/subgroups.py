"""A task's metrics for each group of its examples, such as each sex: counts by group that add up.

subgroup_confusion  int64  (groups, classes, classes)  row true, column guessed
subgroup_scores     int64  (groups, 2, bins)           of two classes, as `score_bins` counts them
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from client.tasks.base import SumSpec
from client.tasks.kinds import score_bins
from client.tasks.kinds.confusion import accuracy

CONFUSION: Final = "subgroup_confusion"
SCORES: Final = "subgroup_scores"
WORST: Final = "worst_group_accuracy"
BINS: Final = 1024
"""Of a group's scores: 16 KiB, where all examples together have 256."""
ENOUGH: Final = 10
"""Examples of a group that may be called the worst."""


@dataclass(frozen=True)
class Subgroups:
    """The groups by name, in order, and how many classes a task tells apart."""

    names: tuple[str, ...]
    classes: int

    def sums(
        self, groups: Tensor, labels: Tensor, guesses: Tensor, scores: Tensor
    ) -> dict[str, Tensor]:
        """Return the counts of examples whose group (n, float32, NaN where it is not known), label,
        guess and score (n) are given; those of no group are in none.
        """
        known = ~groups.isnan()
        group = groups[known].long()
        cells = (group * self.classes + labels[known]) * self.classes + guesses[known]
        shape = (len(self.names), self.classes, self.classes)
        counts = torch.bincount(cells, minlength=math.prod(shape)).reshape(shape)
        if self.classes != 2:
            return {CONFUSION: counts}
        cells = (group * 2 + labels[known]) * BINS + score_bins.bin_of(scores[known], BINS)
        size = len(self.names) * 2 * BINS
        ranked = torch.bincount(cells, minlength=size).reshape(len(self.names), 2, BINS)
        return {CONFUSION: counts, SCORES: ranked}

    def specs(self) -> dict[str, SumSpec]:
        """Return the form of these counts."""
        shape = (len(self.names), self.classes, self.classes)
        specs = {CONFUSION: SumSpec(shape, at_once=1)}
        if self.classes == 2:
            specs[SCORES] = SumSpec((len(self.names), 2, BINS), at_once=1)
        return specs

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the accuracy of the group that has the least of it (Sagawa et al. 2020), among those
        of ten examples or more; NaN without one.
        """
        enough = [counts for counts in sums[CONFUSION] if int(counts.sum()) >= ENOUGH]
        return {WORST: min((accuracy(counts) for counts in enough), default=math.nan)}

    def of(self, sums: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return each group's confusion, and its scores in bins where there are two classes."""
        ranked: Sequence[Tensor | None] = [None] * len(self.names)
        if SCORES in sums:
            ranked = list(sums[SCORES])
        pairs = zip(sums[CONFUSION], ranked, strict=True)
        return dict(zip(self.names, pairs, strict=True))

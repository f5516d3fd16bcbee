"""Classification that is counted for each group of examples as well, such as each sex."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from client.tasks.base import SumSpec
from client.tasks.kinds.balanced import BalancedClassification
from client.tasks.kinds.classification import RANKED, Classification, log_odds
from client.tasks.kinds.subgroups import CONFUSION, WORST, Subgroups


class SubgroupedClassification(BalancedClassification):
    """One of several classes; after `tell_groups` metrics for each group of examples too."""

    metric_sums: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Classification.metric_sums,
        WORST: (CONFUSION,),
    }
    _subgroups: Subgroups | None = None

    @abstractmethod
    def groups_in(self, batch: Any) -> Tensor:
        """Return the group of each example of a batch (n), from 0, in float32; NaN where it is not
        known.
        """

    def tell_groups(self, names: Sequence[str]) -> None:
        """Have groups of these names told apart, in this order."""
        self._subgroups = Subgroups(tuple(names), len(self.contract.classes))
        self.shown = {**RANKED, WORST: "max"}  # type: ignore[misc]  # of this task alone

    def sums(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        """Return the counts of `Classification`, and those of each group."""
        counts = super().sums(output, batch)
        if self._subgroups is None:
            return counts
        logits = getattr(output, "logits", output)
        scores = log_odds(logits)[:, 1]
        groups = self.groups_in(batch)
        return {**counts, **self._subgroups.sums(groups, batch[1], logits.argmax(1), scores)}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of these counts."""
        specs = super().sum_specs()
        return specs if self._subgroups is None else {**specs, **self._subgroups.specs()}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return the metrics of `Classification`, and the accuracy of the worst group."""
        made = super().metrics(sums)
        return made if self._subgroups is None else {**made, **self._subgroups.metrics(sums)}

    def subgroups_of(
        self, sums: Mapping[str, Tensor]
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Return the counts of each group."""
        return {} if self._subgroups is None else self._subgroups.of(sums)

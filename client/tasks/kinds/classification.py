"""Examples of exclusive classes: images in grey or colour, rows of a table, sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from client.partition import Indices
from client.tasks.base import LARGEST_LOSS, Better, SumSpec, broken
from client.tasks.kinds import confidence, score_bins
from client.tasks.kinds.arrays import MADE_UP, Arrays, ArrayTask
from client.tasks.kinds.confusion import accuracy, confusion, macro_f1

RANKED: Final[Mapping[str, Better]] = {
    "accuracy": "max",
    "auroc": "max",
    "auprc": "max",
    "f1": "max",
    "loss": "min",
}
"""What a task shows whose classes are ranked."""


class Classification(ArrayTask):
    """One of `contract.classes` for each example: cross-entropy, accuracy and macro F1.

    A subclass sets `contract` and gives `read`: inputs (n, ...), and labels (n), whole numbers that
    count the classes from 0. A model gives logits (n, classes). With `ranked` there are AUROC and
    AUPRC as well, of class 1 where there are two, else each class against the rest, and what a
    temperature is chosen by.
    """

    metric_sums: ClassVar[Mapping[str, tuple[str, ...]]] = {
        # What is counted of a model's confidence tells how often it was right.
        "accuracy": ("confusion", confidence.COUNTS, confidence.LOSSES),
        "f1": ("confusion", confidence.COUNTS, confidence.LOSSES),
        **score_bins.MADE_OF_SCORES,
    }
    loss_range: ClassVar[tuple[float, float]] = (0.0, LARGEST_LOSS)
    shown: ClassVar[Mapping[str, Better]] = {"accuracy": "max", "f1": "max", "loss": "min"}
    ranked: ClassVar[bool] = False

    def checked_targets(self, targets: NDArray[Any], where: object) -> Indices:
        """Return the labels (n) in int64; raises DataError MDW-202."""
        if targets.ndim != 1 or targets.dtype.kind not in "ui":
            raise broken(
                where,
                f"its labels are {targets.shape} of {targets.dtype}, not one whole number each",
            )
        check_classes(targets, len(self.contract.classes), where)
        return targets.astype(np.int64)

    def labels(self, examples: Arrays) -> Indices:
        """Return the class of each example."""
        return examples[1]

    def made_up_targets(self) -> Indices:
        """Return the first classes."""
        return np.arange(min(MADE_UP, len(self.contract.classes)))

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of logits (n, classes) against labels (n)."""
        return functional.cross_entropy(output, batch[1])

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy of each example (n)."""
        return functional.cross_entropy(output, batch[1], reduction="none")

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the confusion matrix: rows are true classes, columns guessed ones; with `ranked`
        the classes' scores in bins.
        """
        labels = batch[1]
        counts = {"confusion": confusion(output.argmax(1), labels, len(self.contract.classes))}
        if self.ranked:
            scores = log_odds(output)
            positive = functional.one_hot(labels, output.shape[1]) > 0
            ranked = self._ranked_classes()
            counts["scores"] = score_bins.histogram(scores[:, ranked], positive[:, ranked])
        if self._tells_confidence:
            counts |= confidence.sums(output, labels)
        return counts

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the confusion matrix, and of the scores in bins."""
        classes = len(self.contract.classes)
        specs = {"confusion": SumSpec((classes, classes), at_once=1, confusion=True)}
        if self.ranked:
            ranked = len(self._ranked_classes())
            specs["scores"] = SumSpec((ranked, 2, score_bins.BINS), at_once=ranked)
        if self._tells_confidence:
            specs |= confidence.specs()
        return specs

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return accuracy, and the mean over the classes that occur of F1 (`macro_f1`).

        With `ranked` also AUROC and AUPRC, each with a bound on its error.
        """
        counts = sums["confusion"]
        made = {"accuracy": accuracy(counts), "f1": macro_f1(counts)}
        if self.ranked:
            made |= ranking(sums["scores"])
        return made

    def scores_of(self, sums: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the scores of each class that is ranked; of two classes, of the second."""
        if not self.ranked:
            return {}
        names = [self.contract.classes[place] for place in self._ranked_classes()]
        return dict(zip(names, sums["scores"], strict=True))

    def confidence_of(self, sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Return how sure the model was of the class that it says, where there are more than two."""
        if not self._tells_confidence:
            return None
        return sums[confidence.COUNTS], sums[confidence.LOSSES]

    def confusion_of(self, sums: Mapping[str, Tensor]) -> Tensor:
        """Return the confusion matrix: rows are true classes, columns guessed ones."""
        return sums["confusion"]

    @property
    def _tells_confidence(self) -> bool:
        # Of two classes the scores in bins tell it.
        return self.ranked and len(self.contract.classes) > 2

    def _ranked_classes(self) -> list[int]:
        classes = len(self.contract.classes)
        # Of two classes the second has all there is to know: the first is its mirror image.
        return [1] if classes == 2 else list(range(classes))


def check_classes(labels: NDArray[Any], classes: int, where: object) -> None:
    """Raise DataError MDW-202 where labels do not count classes from 0."""
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise broken(
            where,
            f"its labels go from {labels.min()} to {labels.max()}, the task's from 0 to"
            f" {classes - 1}",
        )


def log_odds(logits: Tensor) -> Tensor:
    """Return the logarithm of p / (1 - p) for the softmax p of logits (n, classes).

    It orders examples as p does, and does not saturate where p rounds to 1.
    """
    others = []
    for one in range(logits.shape[1]):
        rest = torch.cat([logits[:, :one], logits[:, one + 1 :]], dim=1)
        others.append(rest.logsumexp(1))
    return logits - torch.stack(others, dim=1)


def ranking(counts: Tensor) -> dict[str, float]:
    """Return AUROC and AUPRC of scores in bins (classes, 2, bins), and bounds on their errors.

    They are means over the classes that have both positives and negatives (AUROC), or positives
    (AUPRC).
    """
    auroc = score_bins.mean([score_bins.auroc(one) for one in counts])
    auprc = score_bins.mean([score_bins.auprc(one) for one in counts])
    return {
        "auroc": auroc.value,
        "auroc_error": auroc.error,
        "auprc": auprc.value,
        "auprc_error": auprc.error,
    }

"""Examples that may have several labels at once, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from client.tasks.base import LARGEST_LOSS, Better, SumSpec, broken
from client.tasks.kinds import score_bins
from client.tasks.kinds.arrays import MADE_UP, ArrayTask
from client.tasks.kinds.classification import ranking
from client.tasks.kinds.confusion import ratio


class MultiLabel(ArrayTask):
    """Whether each of `contract.classes` holds: binary cross-entropy, F1, AUROC and AUPRC.

    A subclass sets `contract` and gives `read`: inputs (n, ...), and targets (n, classes) of 0 and
    1. A model gives logits (n, classes); a label is guessed where its logit is above 0.
    """

    metric_sums: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "f1": ("true_positives", "false_positives", "false_negatives"),
        "f1_micro": ("true_positives", "false_positives", "false_negatives"),
        "subset_accuracy": ("all_right", "examples"),
        **score_bins.MADE_OF_SCORES,
    }
    loss_range: ClassVar[tuple[float, float]] = (0.0, LARGEST_LOSS)
    shown: ClassVar[Mapping[str, Better]] = {
        "f1": "max",
        "auroc": "max",
        "auprc": "max",
        "loss": "min",
    }
    ranked: ClassVar[bool] = True
    """Whether AUROC and AUPRC are taken, for 256 KiB an evaluation and label."""

    def checked_targets(self, targets: NDArray[Any], where: object) -> NDArray[np.float32]:
        """Return the targets (n, classes) in float32; raises DataError MDW-202."""
        classes = len(self.contract.classes)
        if targets.ndim != 2 or targets.shape[1] != classes or targets.dtype.kind not in "buif":
            raise broken(
                where,
                f"its targets are {targets.shape} of {targets.dtype}, not {classes} of 0 or 1 each",
            )
        if not np.isin(targets, (0, 1)).all():
            raise broken(where, "its targets hold other values than 0 and 1")
        return targets.astype(np.float32)

    def made_up_targets(self) -> NDArray[np.float32]:
        """Return each label in turn."""
        return np.eye(MADE_UP, len(self.contract.classes), dtype=np.float32)

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean over examples and labels of the binary cross-entropy of logits."""
        return functional.binary_cross_entropy_with_logits(output, batch[1])

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean over labels of each example's binary cross-entropy (n)."""
        each = functional.binary_cross_entropy_with_logits(output, batch[1], reduction="none")
        return each.mean(1)

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the counts by label of right and wrong guesses, and with `ranked` of scores."""
        true = batch[1] > 0
        guess = output > 0
        counts = {
            "true_positives": (guess & true).sum(0),
            "false_positives": (guess & ~true).sum(0),
            "false_negatives": (~guess & true).sum(0),
            "all_right": (guess == true).all(1).sum(),
            "examples": output.new_tensor(len(true)).long(),
        }
        if self.ranked:
            counts["scores"] = score_bins.histogram(output, true)
        return counts

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the counts."""
        classes = len(self.contract.classes)
        specs = {
            "true_positives": SumSpec((classes,)),
            "false_positives": SumSpec((classes,)),
            "false_negatives": SumSpec((classes,)),
            "all_right": SumSpec(),
            "examples": SumSpec(),
        }
        if self.ranked:
            specs["scores"] = SumSpec((classes, 2, score_bins.BINS), at_once=classes)
        return specs

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return the mean over the labels of F1, that of all guesses together (`f1_micro`), and the
        share of examples with all labels right (`subset_accuracy`).

        As scikit-learn's `f1_score` (average="macro" and "micro", zero_division=0) and
        `accuracy_score`. With `ranked` also AUROC and AUPRC, each with a bound on its error.
        """
        right = sums["true_positives"]
        wrong = sums["false_positives"] + sums["false_negatives"]
        whole = 2 * right + wrong
        by_label = 2 * right.double() / whole.clamp(min=1).double()
        made = {
            "f1": float(by_label.mean()),
            "f1_micro": ratio(2 * int(right.sum()), int(whole.sum())),
            "subset_accuracy": ratio(int(sums["all_right"]), int(sums["examples"])),
        }
        if self.ranked:
            made |= ranking(sums["scores"])
        return made

    def scores_of(self, sums: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the scores of each label."""
        if not self.ranked:
            return {}
        return dict(zip(self.contract.classes, sums["scores"], strict=True))

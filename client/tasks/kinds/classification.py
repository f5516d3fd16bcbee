"""Examples of exclusive classes: images in grey or colour, rows of a table, sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from client.partition import Indices
from client.tasks.base import Better, SumSpec, broken
from client.tasks.kinds.arrays import ArrayTask

ANY_SIDE = 32
"""The side of a made-up input where the contract names none."""


class Classification(ArrayTask):
    """One of `contract.classes` for each example: cross-entropy, accuracy and macro F1.

    A subclass sets `contract` and gives `read`: inputs (n, ...), and labels (n), whole numbers that
    count the classes from 0. A model gives logits (n, classes).
    """

    shown: ClassVar[Mapping[str, Better]] = {"accuracy": "max", "f1": "max", "loss": "min"}

    def checked_targets(self, targets: NDArray[Any], where: object) -> Indices:
        """Return the labels (n) in int64; raises DataError MDW-202."""
        classes = len(self.contract.classes)
        if targets.ndim != 1 or targets.dtype.kind not in "ui":
            raise broken(
                where,
                f"its labels are {targets.shape} of {targets.dtype}, not one whole number each",
            )
        if len(targets) and not 0 <= targets.min() <= targets.max() < classes:
            raise broken(
                where,
                f"its labels go from {targets.min()} to {targets.max()}, the task's from 0 to"
                f" {classes - 1}",
            )
        return targets.astype(np.int64)

    def labels(self, targets: NDArray[Any]) -> Indices:
        """Return the class of each example."""
        return targets

    def made_up(self) -> TensorDataset:
        """Return inputs of zeros, one for each of the first classes."""
        labels = torch.arange(min(4, len(self.contract.classes)))
        # A side of any length is as long as a model's layers can need.
        shape = [ANY_SIDE if side is None else side for side in self.contract.shape]
        return TensorDataset(torch.zeros(len(labels), *shape), labels)

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of logits (n, classes) against labels (n)."""
        return functional.cross_entropy(output, batch[1])

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the confusion matrix: rows are true classes, columns guessed ones."""
        return {"confusion": confusion(output.argmax(1), batch[1], len(self.contract.classes))}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the confusion matrix."""
        classes = len(self.contract.classes)
        return {"confusion": SumSpec((classes, classes))}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return accuracy, and the mean over the classes that occur of F1 (`macro_f1`)."""
        counts = sums["confusion"]
        return {"accuracy": accuracy(counts), "f1": macro_f1(counts)}


def confusion(guesses: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the counts (classes, classes) of guesses (n) by labels (n): row true, column guessed."""
    counts = torch.bincount(labels * classes + guesses, minlength=classes * classes)
    return counts.reshape(classes, classes)


def accuracy(confusion: Tensor) -> float:
    """Return the share of right guesses."""
    return int(confusion.diagonal().sum()) / int(confusion.sum())


def macro_f1(confusion: Tensor) -> float:
    """Return the mean over the classes that occur of F1 = 2 TP / (2 TP + FP + FN).

    A class occurs where it is true or guessed (scikit-learn's `f1_score`, average="macro").
    """
    right = confusion.diagonal()
    true_and_guessed = confusion.sum(1) + confusion.sum(0)
    occurs = true_and_guessed > 0
    f1 = 2 * right[occurs].double() / true_and_guessed[occurs].double()
    return float(f1.mean())

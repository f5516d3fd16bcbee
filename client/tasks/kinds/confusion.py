"""Counts of guesses by true class, and what is made of them: exact, whatever the partition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def confusion(guesses: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the counts (classes, classes) of guesses (n) by labels (n): row true, column guessed."""
    counts = torch.bincount(labels * classes + guesses, minlength=classes * classes)
    return counts.reshape(classes, classes)


def accuracy(counts: Tensor) -> float:
    """Return the share of right guesses; NaN of none."""
    return ratio(int(counts.diagonal().sum()), int(counts.sum()))


def macro_f1(counts: Tensor) -> float:
    """Return the mean over the classes that occur of F1 = 2 TP / (2 TP + FP + FN), also Dice.

    A class occurs where it is true or guessed (scikit-learn's `f1_score`, average="macro").
    """
    return _mean_of_classes(2 * counts.diagonal(), counts.sum(1) + counts.sum(0))


def mean_iou(counts: Tensor) -> float:
    """Return the mean over the classes that occur of TP / (TP + FP + FN), the intersection over the
    union.

    A class occurs where it is true or guessed (scikit-learn's `jaccard_score`, average="macro").
    """
    right = counts.diagonal()
    return _mean_of_classes(right, counts.sum(1) + counts.sum(0) - right)


def ratio(part: int, whole: int) -> float:
    """Return part / whole; NaN where the whole is 0."""
    return part / whole if whole else math.nan


def _mean_of_classes(part: Tensor, whole: Tensor) -> float:
    occurs = whole > 0
    return float((part[occurs].double() / whole[occurs].double()).mean())

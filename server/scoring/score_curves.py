"""The curves of a score: ROC, precision and recall, of counts in bins, as a few points each."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.scoring.operating_point import called_positive

MOST_POINTS: Final = 160
"""Of a curve: as many as a picture shows."""
DIGITS: Final = 5

Points = list[list[float]]
"""Each x and y, from 0 to 1."""


def roc(counts: Tensor, most: int = MOST_POINTS) -> Points:
    """Return the false positive rate and the true positive rate at falling thresholds, from (0, 0)
    to (1, 1); empty without a positive or without a negative.
    """
    wrong, right = _rates(counts)
    if not len(wrong):
        return []
    return _points(np.append(wrong, 0.0)[::-1], np.append(right, 0.0)[::-1], most)


def precision_recall(counts: Tensor, most: int = MOST_POINTS) -> Points:
    """Return recall and precision at falling thresholds, as far as anything is called positive;
    empty without a positive.
    """
    wrong, right = called_positive(counts)
    positives = int(counts[1].sum())
    if not positives:
        return []
    there = (right + wrong) > 0
    recall = right[there] / positives
    precision = right[there] / (right[there] + wrong[there])
    return _points(recall[::-1], precision[::-1], most)


def _rates(counts: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wrong, right = called_positive(counts)
    negatives, positives = counts.sum(1).tolist()
    if not negatives or not positives:
        return np.zeros(0), np.zeros(0)
    return wrong / negatives, right / positives


def _points(xs: NDArray[np.float64], ys: NDArray[np.float64], most: int) -> Points:
    """Return some points of a line, the first and the last among them, equally far apart along it."""
    steps = np.abs(np.diff(xs)) + np.abs(np.diff(ys))
    along = np.concatenate([[0.0], steps.cumsum()])
    wanted = np.linspace(0, along[-1], most)
    # The last of several at one place: a line that falls steeply ends there.
    places = np.unique(np.searchsorted(along, wanted, side="left").clip(0, len(xs) - 1))
    if not len(places) or places[0] != 0:
        places = np.concatenate([[0], places])
    return [[round(float(xs[i]), DIGITS), round(float(ys[i]), DIGITS)] for i in places]

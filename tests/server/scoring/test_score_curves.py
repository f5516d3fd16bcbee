"""Curves of counts in bins are scikit-learn's, as far as a picture shows."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from client.tasks.kinds.score_bins import histogram
from server.scoring.score_curves import MOST_POINTS, precision_recall, roc
from tests.server.scoring.test_operating_point import counts_of, drawn


def test_the_area_below_the_roc_curve_is_auroc() -> None:
    scores, positive = drawn(1, 3000)
    points = np.array(roc(counts_of(scores, positive)))
    assert len(points) <= MOST_POINTS + 1
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]
    assert (np.diff(points, axis=0) >= 0).all()
    assert abs(auc(points[:, 0], points[:, 1]) - roc_auc_score(positive, scores)) < 0.005


def test_precision_over_recall_is_average_precision() -> None:
    scores, positive = drawn(2, 3000)
    points = np.array(precision_recall(counts_of(scores, positive)))
    area = (np.diff(points[:, 0], prepend=0) * points[:, 1]).sum()
    assert abs(area - average_precision_score(positive, scores)) < 0.01
    assert points[-1].tolist() == [1.0, round(float(positive.float().mean()), 5)]


def test_without_positives_there_is_no_curve() -> None:
    none = histogram(torch.randn(9, 1), torch.zeros(9, 1, dtype=torch.bool))[0]
    assert roc(none) == [] and precision_recall(none) == []
    assert roc(torch.zeros(2, 64, dtype=torch.int64)) == []

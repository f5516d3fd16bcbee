"""What the sums of a test tell beside its metrics: curves, calibration, what the operating point
does, which classes are taken for which, and 95 % intervals.

All of it is made of counts that all silos' evaluations added up to; nothing more leaves a silo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from torch import Tensor

from client.sums import Sums
from client.tasks.base import Task
from client.tasks.kinds import confusion, error_moments, score_bins
from client.tasks.kinds.classification import Classification
from conf.schema import OperatingConf
from server.scoring.calibration import (
    confidence_reliability,
    confidence_temperature,
    reliability,
    temperature_of,
)
from server.scoring.intervals import intervals, of_moments
from server.scoring.operating_point import chosen_point, outcome_at
from server.scoring.outcome import OperatingPoint
from server.scoring.score_curves import MOST_POINTS, precision_recall, roc

FEWEST_POINTS: Final = 40
Details = dict[str, Any]
"""Plain values: docs/results.md says which."""


def chosen_of(task: Task, sums: Sums, conf: OperatingConf) -> Details:
    """Return what is chosen on validation examples: of each class that is ranked its operating
    point, and one temperature. Empty where nothing is ranked.
    """
    scores = task.scores_of(sums) if sums else {}
    if not scores:
        return {}
    points = {name: chosen_point(counts, conf) for name, counts in scores.items()}
    return {
        "points": {name: point.to_json() for name, point in points.items() if point is not None},
        "temperature": _temperature(task, sums, list(scores.values())),
    }


def _temperature(task: Task, sums: Sums, scores: list[Tensor]) -> float | None:
    found = task.confidence_of(sums)
    if found is not None:
        return confidence_temperature(*found)
    return temperature_of(scores) if _is_cooled(task) else None


def points_of(chosen: Mapping[str, Any]) -> dict[str, OperatingPoint]:
    """Return the operating points that `chosen_of` found, by class."""
    return {name: OperatingPoint.from_json(raw) for name, raw in chosen.get("points", {}).items()}


def details_of(task: Task, sums: Sums, chosen: Mapping[str, Any]) -> Details:
    """Return what a test's sums tell of curves, calibration, confusion and intervals."""
    if not sums:
        return {}
    found: Details = {}
    counts = task.confusion_of(sums)
    scores = task.scores_of(sums)
    if counts is not None:
        found["confusion"] = counts.tolist()
        found["intervals"] = intervals(counts, _of_confusion)
    moments = task.moments_of(sums)
    if moments is not None:
        found["intervals"] = of_moments(
            moments, lambda drawn: dict(task.metrics(error_moments.sums_of(drawn)))
        )
    groups = task.subgroups_of(sums)
    if groups:
        found["subgroups"] = {name: _of_group(*one) for name, one in groups.items()}
    if scores:
        most = max(MOST_POINTS // len(scores), FEWEST_POINTS)
        points = points_of(chosen)
        sure = task.confidence_of(sums)
        temperature = chosen.get("temperature")
        if sure is not None:
            found["confidence"] = _of_confidence(sure[0], temperature)
            # A temperature of all logits is none of one class against the rest.
            temperature = None
        found["classes"] = {
            name: _of_scores(one, points.get(name), temperature, most)
            for name, one in scores.items()
        }
        if len(scores) == 1:
            (only,) = found["classes"].values()
            found["intervals"] = found.get("intervals", {}) | {
                name: only["intervals"][name]
                for name in ("auroc", "auprc")
                if name in only["intervals"]
            }
    return found


def _of_confidence(counts: Tensor, temperature: float | None) -> Details:
    found: Details = {"reliability": confidence_reliability(counts).to_json()}
    if temperature is not None:
        found["calibrated"] = confidence_reliability(counts, temperature).to_json()
    return found


def _of_scores(
    counts: Tensor, point: OperatingPoint | None, temperature: float | None, most: int
) -> Details:
    there = counts[:, counts.sum(0) > 0]
    threshold = None if point is None else point.threshold
    # The bins from a threshold upwards, among those that are not empty.
    above = None if threshold is None else _above(counts, threshold)
    negatives, positives = counts.sum(1).tolist()
    found = {
        "negatives": negatives,
        "positives": positives,
        "auroc": score_bins.auroc(counts).value,
        "auprc": score_bins.auprc(counts).value,
        "roc": roc(counts, most),
        "precision_recall": precision_recall(counts, most),
        "reliability": reliability(counts).to_json(),
        "intervals": intervals(there, lambda drawn: _of_bins(drawn, above)),
    }
    if temperature is not None:
        found["calibrated"] = reliability(counts, temperature).to_json()
    if threshold is not None:
        found["outcome"] = vars(outcome_at(counts, threshold))
    return found


def _of_group(counts: Tensor, scores: Tensor | None) -> Details:
    """Return a group's examples, its accuracy, and AUROC and AUPRC of two classes, with intervals."""
    found: Details = {
        "examples": int(counts.sum()),
        "accuracy": confusion.accuracy(counts),
        "intervals": {"accuracy": intervals(counts, _of_confusion).get("accuracy")},
    }
    if scores is not None:
        there = scores[:, scores.sum(0) > 0]
        found["auroc"] = score_bins.auroc(scores).value
        found["auprc"] = score_bins.auprc(scores).value
        found["intervals"] |= intervals(there, lambda drawn: _of_bins(drawn, None))
    return found


def _above(counts: Tensor, threshold: float) -> int:
    """Return how many of the bins that are not empty lie below a threshold."""
    place = int(np.searchsorted(score_bins.thresholds(counts.shape[1]), np.float32(threshold)))
    return int((counts[:, :place].sum(0) > 0).sum())


def _of_bins(counts: Tensor, above: int | None) -> dict[str, float]:
    measures = {
        "auroc": score_bins.auroc(counts).value,
        "auprc": score_bins.auprc(counts).value,
    }
    if above is not None:
        negatives, positives = counts.sum(1).tolist()
        wrong, right = counts[:, above:].sum(1).tolist()
        measures |= {
            "sensitivity": confusion.ratio(right, positives),
            "specificity": confusion.ratio(negatives - wrong, negatives),
            "precision": confusion.ratio(right, right + wrong),
        }
    return measures


def _of_confusion(counts: Tensor) -> dict[str, float]:
    return {"accuracy": confusion.accuracy(counts), "f1": confusion.macro_f1(counts)}


def _is_cooled(task: Task) -> bool:
    """Whether scores over a temperature are the scores of a model that is cooled: of two classes and
    of labels, not of one class against many others.
    """
    return not isinstance(task, Classification) or len(task.contract.classes) == 2

"""Where a model's score becomes a yes: chosen on validation examples, then looked at on the test.

What is known of the scores is how many positives and negatives lie in each bin
(`client.tasks.kinds.score_bins`), of all silos together. A threshold is where a bin begins, so what
it would have done is counted, not estimated.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.tasks.kinds.score_bins import thresholds
from conf.schema import OperatingConf
from server.scoring.outcome import IN_A_THOUSAND, OperatingPoint, Outcome


def called_positive(counts: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many negatives and positives of counts (2, bins) each bin's threshold calls
    positive (bins, bins).
    """
    negatives, positives = counts.numpy()[:, ::-1].cumsum(1)[:, ::-1]
    return negatives, positives


def chosen_point(counts: Tensor, conf: OperatingConf) -> OperatingPoint | None:
    """Return the threshold that a rule chooses of counts (2, bins): None without a positive or a
    negative, or where no threshold keeps the rule.

    Of those that do the same the highest is taken.
    """
    wrong, right = called_positive(counts)
    every = counts.sum(1).tolist()
    negatives, positives = every
    if not negatives or not positives:
        return None
    sensitivity = right / positives
    specificity = 1 - wrong / negatives
    if conf.rule == "specificity":
        allowed, wanted = specificity >= conf.at, sensitivity
    elif conf.rule == "sensitivity":
        allowed, wanted = sensitivity >= conf.at, specificity
    elif conf.rule == "alarms":
        allowed = IN_A_THOUSAND * wrong <= conf.at * sum(every)
        wanted = sensitivity
    else:
        allowed, wanted = np.ones(len(right), bool), sensitivity + specificity
    # A threshold above which nothing lies says no to everything: that is no point to work at.
    allowed &= (right + wrong) > 0
    if not allowed.any():
        return None
    best = np.where(allowed, wanted, -math.inf)
    place = int(np.flatnonzero(best == best.max())[-1])
    outcome = Outcome(int(right[place]), int(wrong[place]), positives, negatives)
    return OperatingPoint(conf.rule, conf.at, _finite(counts, place), outcome)


def outcome_at(counts: Tensor, threshold: float) -> Outcome:
    """Return what a threshold does to the scores of counts (2, bins)."""
    place = int(np.searchsorted(thresholds(counts.shape[1]), np.float32(threshold)))
    above = counts[:, place:].sum(1).tolist()
    negatives, positives = counts.sum(1).tolist()
    return Outcome(above[1], above[0], positives, negatives)


def _finite(counts: Tensor, place: int) -> float:
    """Return a bin's threshold; that of the lowest bin, which is -inf, as the lowest float32."""
    lowest = float(np.finfo(np.float32).min)
    return max(float(thresholds(counts.shape[1])[place]), lowest)

"""Intervals hold the true value as often as they say, and are the same each time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from client.tasks.kinds.confusion import accuracy
from server.scoring.intervals import intervals


def share(counts: Tensor) -> dict[str, float]:
    return {"accuracy": accuracy(counts)}


def test_about_95_of_100_hold_the_true_share() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        right = random.random(300) < 0.8
        counts = torch.tensor([[int(right.sum()), 0], [int((~right).sum()), 0]])
        low, high = intervals(counts, share)["accuracy"]
        held += low <= 0.8 <= high
    assert 88 <= held <= 100


def test_it_is_as_wide_as_a_bootstrap_of_the_examples_themselves() -> None:
    counts = torch.tensor([[70, 30], [20, 80]])
    low, high = intervals(counts, share)["accuracy"]
    random = np.random.default_rng(1)
    right = np.repeat([1, 0], [150, 50])
    drawn = [random.choice(right, 200).mean() for _ in range(2000)]
    wanted = np.percentile(drawn, [2.5, 97.5])
    assert np.abs(np.array([low, high]) - wanted).max() < 0.015


def test_the_same_counts_give_the_same_interval() -> None:
    counts = torch.tensor([[7, 3], [2, 8]])
    assert intervals(counts, share) == intervals(counts, share)


def test_what_is_not_defined_has_none() -> None:
    assert intervals(torch.zeros(2, 2, dtype=torch.int64), share) == {}

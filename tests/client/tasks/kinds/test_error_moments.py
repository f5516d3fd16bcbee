"""Intervals of a regression's metrics, from one sum over silos, are those of a bootstrap of examples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor

from client import sums
from client.tasks.base import Contract
from client.tasks.kinds import error_moments
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.regression import Regression
from server.scoring.details import details_of
from server.scoring.intervals import ENOUGH

COUNT = 400


class Heights(Regression):
    name = "heights"
    contract = Contract((1,), targets=("height",))
    ranges = ((0.0, 300.0),)

    def read(self, root: Path) -> Arrays:
        raise NotImplementedError


class Many(Heights):
    name = "many"
    contract = Contract((1,), targets=tuple("abcdefghi"))
    ranges = ()


def drawn(seed: int, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Return targets and guesses; the spread of the errors grows with the target."""
    random = np.random.default_rng(seed)
    truth = random.normal(170, 12, count).clip(0, 300)
    guesses = truth + random.normal(0, truth / 25)
    return torch.tensor(truth)[:, None].float(), torch.tensor(guesses)[:, None].float()


def summed(task: Regression, truth: Tensor, guesses: Tensor, parts: int = 3) -> dict[str, Tensor]:
    """Return the sums of examples that several silos have."""
    rows = torch.zeros(len(truth), 1)
    return sums.folded(
        sums.of_batch(task, guesses[i::parts], (rows[i::parts], truth[i::parts]))
        for i in range(parts)
    )


def test_the_first_row_is_what_the_task_adds_up_anyway() -> None:
    total = summed(Heights(), *drawn(0))
    added = error_moments.sums_of(total[error_moments.MOMENTS][0])
    assert added.keys() == total.keys() - {"loss", "size", error_moments.MOMENTS}
    for name, value in added.items():
        assert torch.allclose(value.double(), total[name].double(), rtol=1e-9)


def test_intervals_are_those_of_a_bootstrap_of_the_examples() -> None:
    truth, guesses = drawn(1)
    found = details_of(Heights(), summed(Heights(), truth, guesses), {})["intervals"]

    random = np.random.default_rng(2)
    measured: dict[str, list[float]] = {"rmse": [], "mae": [], "r2": []}
    for _ in range(1500):
        rows = random.integers(0, COUNT, COUNT)
        pair = truth.numpy()[rows], guesses.numpy()[rows]
        measured["rmse"].append(root_mean_squared_error(*pair))
        measured["mae"].append(mean_absolute_error(*pair))
        measured["r2"].append(r2_score(*pair))
    for name, values in measured.items():
        low, high = np.percentile(values, [2.5, 97.5])
        assert found[name][0] == pytest.approx(low, abs=0.15 * (high - low)), name
        assert found[name][1] == pytest.approx(high, abs=0.15 * (high - low)), name


def test_about_95_of_100_hold_the_true_error() -> None:
    # Of a normal error with the deviation y / 25 the mean square is E y^2 / 625.
    true = math.sqrt((170**2 + 12**2) / 625)
    held = 0
    for seed in range(100):
        total = summed(Heights(), *drawn(seed + 10))
        low, high = details_of(Heights(), total, {})["intervals"]["rmse"]
        held += low <= true <= high
    assert 87 <= held <= 100


def test_few_examples_and_very_many_targets_have_none() -> None:
    few = summed(Heights(), *drawn(3, ENOUGH - 1))
    assert details_of(Heights(), few, {})["intervals"] == {}

    truth = torch.zeros(40, 9)
    total = summed(Many(), truth, truth + 1)
    assert error_moments.MOMENTS not in total
    assert details_of(Many(), total, {}) == {}


def test_a_perfect_model_has_an_interval_without_a_width() -> None:
    truth, _ = drawn(4)
    found = details_of(Heights(), summed(Heights(), truth, truth), {})["intervals"]
    assert found["rmse"] == [0.0, 0.0]
    assert found["r2"] == [1.0, 1.0]

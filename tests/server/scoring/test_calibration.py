"""A temperature undoes what divided the scores, and the error is that of the probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from server.scoring.calibration import RANGES, reliability, temperature_of
from tests.server.scoring.test_operating_point import counts_of


def honest(seed: int, count: int = 20_000) -> tuple[Tensor, Tensor]:
    """Return log-odds that are what happens."""
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.normal(-1, 2, count)).float()
    positive = torch.from_numpy(random.random(count)).float() < scores.sigmoid()
    return scores, positive


@pytest.mark.parametrize("times", [0.4, 1.0, 3.0])
def test_the_temperature_is_what_scores_were_multiplied_by(times: float) -> None:
    scores, positive = honest(0)
    found = temperature_of([counts_of(scores * times, positive)])
    assert found == pytest.approx(times, rel=0.03)


def test_it_makes_the_likelihood_of_every_single_score_largest() -> None:
    scores, positive = honest(1, 500)
    found = temperature_of([counts_of(scores * 2, positive)])
    assert found is not None

    def loss(temperature: float) -> float:
        logits = scores * 2 / temperature
        return float(functional.binary_cross_entropy_with_logits(logits, positive.float()))

    assert loss(found) <= min(loss(found * 1.02), loss(found / 1.02)) + 1e-7


def test_the_error_is_that_of_the_probabilities_themselves() -> None:
    scores, positive = honest(2, 3000)
    said = (scores * 2).sigmoid().double().numpy()
    ranges = np.minimum((said * RANGES).astype(int), RANGES - 1)
    error = 0.0
    for one in range(RANGES):
        there = ranges == one
        if there.any():
            apart = abs(said[there].mean() - positive.numpy()[there].mean())
            error += apart * there.mean()
    assert reliability(counts_of(scores * 2, positive)).error == pytest.approx(error, abs=2e-3)


def test_the_temperature_takes_the_error_away() -> None:
    scores, positive = honest(3)
    counts = counts_of(scores * 3, positive)
    found = temperature_of([counts])
    assert found is not None
    assert reliability(counts).error > 0.08
    assert reliability(counts, found).error < 0.02


def test_scores_that_nothing_contradicts_have_no_temperature() -> None:
    scores = torch.tensor([-3.0, -2.0, 2.0, 3.0])
    assert temperature_of([counts_of(scores, scores > 0)]) is None
    assert temperature_of([counts_of(scores, scores > 9)]) is None
    assert math.isnan(reliability(torch.zeros(2, 64, dtype=torch.int64)).error)

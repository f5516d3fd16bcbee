"""The noise in a mean is what is said, divides by who was asked, and touches parameters alone."""

from __future__ import annotations

import numpy as np
from scipy.stats import kstest

from strategies.mean_noise import CHUNK, noised

BEFORE = {
    "weight": np.full((3, CHUNK // 2 + 5), 2.0, np.float32),
    "mean": np.ones(4, np.float32),
    "count": np.array(7),
}


def made(share: float = 1.0, deviation: float = 0.0, **mean: np.ndarray) -> dict[str, np.ndarray]:
    arrays, _, _ = noised(
        BEFORE,
        {**BEFORE, **mean},
        ["weight"],
        share=share,
        deviation=deviation,
        generator=np.random.default_rng(1),
    )
    return arrays


def test_without_noise_the_step_is_that_of_those_who_answered_over_those_who_were_asked() -> None:
    mean = BEFORE["weight"] + 1
    assert np.array_equal(made(weight=mean)["weight"], mean)
    assert np.allclose(made(0.25, weight=mean)["weight"], 2.25)


def test_what_has_no_bound_stays_what_it_was() -> None:
    got = made(mean=np.full(4, 9.0, np.float32), count=np.array(900), deviation=1.0)
    assert np.array_equal(got["mean"], BEFORE["mean"]) and got["count"] == 7


def test_the_noise_of_each_weight_is_normal_and_its_own() -> None:
    got = made(deviation=0.5)["weight"]
    noise = (got - BEFORE["weight"]).ravel()
    assert kstest(noise, "norm", args=(0.0, 0.5)).pvalue > 1e-3
    assert kstest(noise, "norm", args=(0.0, 0.51)).pvalue < 1e-3, "it can tell"
    assert len(np.unique(noise)) > 0.5 * noise.size and got.dtype == np.float32


def test_the_step_s_norm_and_the_number_of_weights_are_told() -> None:
    mean = {**BEFORE, "weight": BEFORE["weight"] + 1}
    _, norm, weights = noised(
        BEFORE,
        mean,
        ["weight"],
        share=1.0,
        deviation=0.0,
        generator=np.random.default_rng(1),
    )
    assert weights == BEFORE["weight"].size and np.isclose(norm, weights**0.5)

"""What guesses prove of epsilon is what the paper's formula says, and no more than what is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from client.privacy.lower_bound import CONFIDENCE, lower_bound, p_value, proven


def of_the_paper(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The probability as the theorem writes it: a tail, and the steepest mean below it."""
    each = 1 / (1 + math.exp(-epsilon))
    chance = [math.comb(r, k) * each**k * (1 - each) ** (r - k) for k in range(r + 1)]
    steepest = max((sum(chance[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, sum(chance[v:]) + 2 * m * delta * steepest)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("counts", [(40, 20, 15), (40, 20, 20), (60, 60, 31), (30, 10, 0)])
def test_the_probability_is_that_of_the_paper(counts: tuple[int, int, int], delta: float) -> None:
    for epsilon in (0.0, 0.5, 2.0):
        expected = of_the_paper(*counts, epsilon, delta)
        assert p_value(*counts, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def test_the_example_of_the_paper_s_appendix_has_its_number() -> None:
    assert lower_bound(1000, 100, 75, 1e-4, 0.05) == pytest.approx(0.673, abs=5e-4)


def test_a_larger_delta_explains_more_and_proves_less() -> None:
    bounds = [lower_bound(1000, 100, 90, delta) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > bounds[-1] > 0


def test_no_better_than_a_coin_proves_nothing() -> None:
    assert lower_bound(1000, 100, 50, 0.0) == 0
    assert lower_bound(1000, 0, 0, 0.0) == 0


def test_what_every_guess_proves_grows_with_their_number_alone() -> None:
    few, many = (lower_bound(n, n, n, 0.0) for n in (20, 1000))
    # 20 right guesses have the probability .05 where each has .05 ** (1 / 20).
    each = 0.05 ** (1 / 20)
    assert few == pytest.approx(math.log(each / (1 - each)), abs=1e-3)
    assert many > few + 3


def randomised_response(draws: np.random.Generator, epsilon: float, canaries: int) -> float:
    """What is proven of a mechanism that tells each coin as it is with e^epsilon / (1 + e^epsilon)."""
    coins = draws.random(canaries) < 0.5
    honest = draws.random(canaries) < 1 / (1 + math.exp(-epsilon))
    scores = np.where(coins == honest, 1.0, 0.0) + draws.random(canaries) * 0.1
    return proven(coins, scores, 0.0).epsilon


def test_the_bound_holds_as_often_as_it_says_and_is_not_idle() -> None:
    draws = np.random.default_rng(1)
    found = [randomised_response(draws, 1.0, 400) for _ in range(200)]
    beyond = sum(one > 1.0 for one in found)
    # Of 200 audits 5 % may be beyond; more than 20 would be once in a thousand times.
    assert beyond <= stats.binom.ppf(0.999, 200, 1 - CONFIDENCE)
    assert np.median(found) > 0.5


def test_scores_that_tell_all_are_guessed_right_and_ties_and_nan_fail_nothing() -> None:
    coins = np.arange(100) % 2 == 0
    best = proven(coins, coins.astype(float), 1e-5)
    assert (best.canaries, best.included) == (100, 50)
    assert best.correct == best.guesses == 100 and best.epsilon > 2
    assert proven(coins, np.zeros(100), 1e-5).epsilon == 0
    assert proven(coins, np.full(100, np.nan), 1e-5).epsilon == 0
    assert proven([True], [1.0], 1e-5).epsilon == 0

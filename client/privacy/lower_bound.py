"""What an attacker's guesses prove of a mechanism: a lower bound on its epsilon, from one run.

Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846): m canaries are each included by a fair coin, an
attacker guesses some of the coins, and under (epsilon, delta) so many right guesses are improbable.
Theorem 5.2 bounds how improbable, for coins that are guessed from one output together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.privacy.accountant import needed

CONFIDENCE: Final = 0.95
"""With which a lower bound holds."""
SHARES: Final = (1.0, 0.5, 0.2, 0.1)
"""Of the canaries that are guessed, those with the most telling scores: which share proves most is
not known beforehand. Each is tried with its part of the doubt, so that the best of them may count.
"""
STEPS: Final = 40
"""Of a bisection."""
MOST: Final = 100.0
"""An epsilon of which nobody wants to know how far above it the truth is."""

Coins = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Proven:
    """What guesses prove: with the `confidence`, epsilon is at least this."""

    epsilon: float
    canaries: int
    included: int
    guesses: int
    correct: int
    confidence: float


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return at most how probable so many correct guesses are under (epsilon, delta).

    The binomial tail of guessing by randomised response, and what delta adds to it (arXiv
    2305.08846, theorem 5.2 and appendix D).
    """
    binomial = needed("scipy.stats").binom
    each = 1 / (1 + np.exp(-epsilon))
    tail = float(binomial.sf(correct - 1, guesses, each))
    if correct == 0 or delta == 0:
        return min(tail, 1.0)
    # The probability of 1, 2, ... fewer than `correct`, added up from the top.
    below = np.cumsum(binomial.pmf(np.arange(correct - 1, -1, -1), guesses, each))
    steepest = float((below / np.arange(1, correct + 1)).max())
    return min(tail + 2 * canaries * delta * steepest, 1.0)


def lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, doubt: float = 1 - CONFIDENCE
) -> float:
    """Return the largest epsilon (to .001 and less) under which so many correct guesses have at most
    the probability `doubt`; 0 where they prove nothing.
    """
    low, high = 0.0, MOST
    if p_value(canaries, guesses, correct, low, delta) > doubt:
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= doubt:
            low = middle
        else:
            high = middle
    return low


def proven(coins: Sequence[bool] | Coins, scores: Sequence[float] | Scores, delta: float) -> Proven:
    """Return what scores of canaries prove: the higher a score, the likelier it was included.

    Half of the guesses are that a canary is in, of the highest scores, and half that it is out, of
    the lowest. Scores that are not finite count as the lowest.
    """
    known = np.asarray(coins, bool)
    sizes = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf)
    order = np.argsort(sizes, kind="stable")
    doubt = (1 - CONFIDENCE) / len(SHARES)
    found = []
    for share in SHARES:
        half = int(len(known) * share) // 2
        correct = int((~known[order[:half]]).sum() + known[order[len(known) - half :]].sum())
        least = lower_bound(len(known), 2 * half, correct, delta, doubt)
        found.append(Proven(least, len(known), int(known.sum()), 2 * half, correct, CONFIDENCE))
    return max(found, key=lambda one: one.epsilon)

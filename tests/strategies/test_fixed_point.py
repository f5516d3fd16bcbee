"""Sums in fixed point: the same bits whatever holds the counters, and whenever they are carried."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from strategies import fixed_point
from strategies.fixed_point import CARRY_EVERY, HIGH_BITS, LIMIT, LOW_BITS, WHOLE, Sum

SMALL = 1.0
"""A reach for which the counters are floats."""
LARGE = WHOLE
"""One for which they are integers."""


def drawn(scale: float = 1.0, size: int = 2000) -> list[tuple[np.ndarray, int]]:
    """Return updates of all magnitudes, with signs, zeros and values below the last step."""
    rng = np.random.default_rng(3)
    made = []
    for n in (1, 7, 60, 1201, 5):
        values = rng.normal(size=size) * np.exp2(rng.integers(-75, 5, size)) * scale
        values[:3] = [0.0, -0.0, -(2.0**-70)]
        made.append((values.astype(np.float32), n))
    return made


def mean(updates: list[tuple[np.ndarray, int]], reach: float) -> bytes:
    """Return the bits of the mean, one update after another."""
    first = updates[0][0]
    added = Sum(first.shape, first.dtype)
    for array, n in updates:
        added.add(array, n, reach)
    return added.mean(sum(n for _, n in updates)).tobytes()


def test_floats_and_integers_count_to_the_same_bits() -> None:
    assert mean(drawn(), SMALL) == mean(drawn(), LARGE)


def test_a_sum_that_grows_too_large_for_floats_goes_on_in_integers() -> None:
    updates = drawn()
    first = updates[0][0]
    added = Sum(first.shape, first.dtype)
    for number, (array, n) in enumerate(updates):
        added.add(array, n, SMALL if number < 3 else LARGE)
    assert added.high.dtype == np.int64
    assert added.mean(sum(n for _, n in updates)).tobytes() == mean(updates, SMALL)


def test_the_order_of_updates_changes_no_bit() -> None:
    updates = drawn(size=200)
    assert len({mean(list(order), SMALL) for order in permutations(updates)}) == 1


def test_sums_near_the_limit_are_exact_in_integers() -> None:
    weight = 2**29 - 1
    value = np.float32(LIMIT / weight / 4)
    updates = [(np.array([value, -value, np.float32(1.5)], np.float32), weight)] * 3
    assert 3 * weight * float(value) * 2.0**HIGH_BITS > WHOLE
    found = np.frombuffer(mean(updates, LIMIT), np.float32)
    exact = [Fraction(float(value)), Fraction(-float(value)), Fraction(3, 2)]
    assert [Fraction(float(one)) for one in found] == exact


def test_carrying_between_the_counters_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = drawn() * 10
    before = mean(updates, SMALL)
    monkeypatch.setattr(fixed_point, "CARRY_EVERY", 3)
    assert mean(updates, SMALL) == before
    assert mean(updates, LARGE) == before


def test_the_low_counter_is_carried_before_it_could_leave_whole_numbers() -> None:
    added = Sum((1,), np.dtype(np.float64))
    full = float((1 << LOW_BITS) - 1)
    added._count = CARRY_EVERY - 1
    added.low[:] = full * added._count
    added.add(np.array([0.5]), 1, SMALL)
    assert 0 <= added.low[0] <= full
    assert added.high[0] > 0


def test_what_is_added_between_two_carries_is_a_whole_number_of_a_float() -> None:
    # Each update adds less than 2^LOW_BITS, to a rest that is below it too.
    assert (CARRY_EVERY + 1) << LOW_BITS <= WHOLE

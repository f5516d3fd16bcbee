"""The mean that is added up in float64, in the order of the silos: right, and its changes too."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from strategies.chunks import CHUNK, chunks
from strategies.ordered_mean import AT_ONCE, mean_in_order

WEIGHTS = (3, 700, 41, 12_000)


def updates(size: int) -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(5)
    return [(rng.normal(size=size).astype(np.float32), n) for n in WEIGHTS]


def test_chunks_hold_every_element_once() -> None:
    for size in (0, 1, CHUNK, CHUNK + 1, 3 * CHUNK):
        found = [i for at in chunks(size) for i in range(size)[at]]
        assert found == list(range(size))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 3, 2 * CHUNK, 2 * CHUNK + 1, 2 * CHUNK + 5])
@pytest.mark.parametrize("silos", [2, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 2])
def test_it_is_numpys_sum_in_that_order_whatever_the_pieces(
    silos: int, size: int, dtype: str
) -> None:
    rng = np.random.default_rng([silos, size])
    numbers = [int(n) for n in rng.integers(1, 100_000, silos)]
    given = [(rng.normal(size=size).astype(dtype), n) for n in numbers]
    given[0] = (given[0][0], 2**31)
    total = given[0][0].astype(np.float64) * given[0][1]
    for array, n in given[1:]:
        total = total + array.astype(np.float64) * n
    weight = sum(n for _, n in given)
    mean = mean_in_order(given, weight)
    # The mean of halves is not rounded yet.
    made = "float64" if dtype == "float16" else dtype
    assert mean.dtype == made
    assert mean.tobytes() == (total / weight).astype(made).tobytes()


@pytest.mark.parametrize("silos", [3, AT_ONCE + 3])
def test_changes_are_added_up_in_that_order_too(silos: int) -> None:
    rng = np.random.default_rng(silos)
    base = 300 + rng.normal(size=500).astype(np.float32)
    given = [(base + rng.normal(size=500).astype(np.float32), n) for n in range(7, 7 + silos)]
    wide = base.astype(np.float64)
    total = (given[0][0].astype(np.float64) - wide) * 7
    for array, n in given[1:]:
        total = total + (array.astype(np.float64) - wide) * n
    weight = sum(n for _, n in given)
    expected = (total / weight + wide).astype(np.float32)
    assert mean_in_order(given, weight, base).tobytes() == expected.tobytes()


def test_it_is_the_exact_mean_of_float32_rounded_once() -> None:
    given = updates(300)
    mean = mean_in_order(given, sum(WEIGHTS))
    for i in range(300):
        exact = sum((n * Fraction(float(array[i])) for array, n in given), Fraction(0))
        assert mean[i] == np.float32(float(exact / sum(WEIGHTS)))


def test_changes_of_large_values_keep_what_the_values_would_lose() -> None:
    # In one silo of ten million examples one element moves by its last bit.
    base = np.full(5, 2.0**24, np.float32)
    moved = base + np.float32(2)
    mean = mean_in_order([(base, 10_000_000), (moved, 10_000_000)], 20_000_000, base)
    np.testing.assert_array_equal(mean, (base.astype(np.float64) + 1).astype(np.float32))
    again = mean_in_order([(moved, 1), (moved, 2)], 3, base)
    assert again.tobytes() == moved.tobytes()


def test_the_updates_stay_what_they_were() -> None:
    given = updates(100)
    before = [array.copy() for array, _ in given]
    mean_in_order(given, sum(WEIGHTS), np.ones(100, np.float32))
    for (array, _), was in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, was)

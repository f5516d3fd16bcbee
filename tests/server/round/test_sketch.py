"""A sketch is small, linear in the vector, and its cosines are right to a few hundredths."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from server.round.sketch import BLOCK, WIDTH, Sketch, Sketcher, cosine


def drawn(vector: NDArray[np.float64], seed: int = 1) -> Sketch:
    pen = Sketcher(seed).begin()
    for start in range(0, vector.size, BLOCK):
        pen.add(vector[start : start + BLOCK])
    return pen.drawn()


def pair(kind: str, angle: float, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two vectors whose cosine is `angle`, in a form that a bad hash would be caught by."""
    generator = np.random.default_rng(7)
    x = generator.standard_normal(size)
    y = generator.standard_normal(size)
    if kind == "one block again and again":
        repeats = size // BLOCK
        x = np.tile(x[:BLOCK], repeats)
        y = np.repeat(generator.standard_normal(repeats), BLOCK)
    if kind == "one bucket":
        mask = np.arange(size) % WIDTH == 5
        x = np.where(mask, x, 1e-3 * x)
        y = np.where(mask, y, 1e-3 * y)
    if kind == "heavy tail":
        x = np.sign(x) * np.abs(x) ** 3
        y = np.sign(y) * np.abs(y) ** 3
    x /= np.sqrt((x * x).sum())
    y -= (x * y).sum() * x
    y /= np.sqrt((y * y).sum())
    return x, angle * x + np.sqrt(1 - angle**2) * y


KINDS = ["normal", "one block again and again", "heavy tail"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("angle", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_a_cosine_of_sketches_has_the_error_that_is_stated(kind: str, angle: float) -> None:
    x, y = pair(kind, angle, 8 * BLOCK)
    errors = []
    for seed in range(20):
        found = cosine(drawn(x, seed), drawn(y, seed))
        assert found is not None
        errors.append(found - angle)
    assert np.sqrt(np.mean(np.square(errors))) < 1.5 / np.sqrt(WIDTH)
    assert abs(float(np.mean(errors))) < 4 / np.sqrt(WIDTH * 20)


def test_a_few_coordinates_alone_are_compared_too() -> None:
    x = np.zeros(3 * BLOCK + 17)
    y = np.zeros_like(x)
    x[[5, BLOCK + 9, -1]] = [1.0, 2.0, 3.0]
    y[[5, BLOCK + 9, -1]] = [1.0, 2.0, -3.0]
    assert cosine(drawn(x), drawn(y)) == pytest.approx(-4 / 14, abs=1e-6)


def test_the_same_vector_in_the_same_blocks_has_the_same_sketch() -> None:
    x = np.random.default_rng(0).standard_normal(BLOCK + 100)
    assert np.array_equal(drawn(x), drawn(x))
    assert drawn(x).nbytes == 8192


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan, 1e300])
def test_what_has_no_direction_has_no_cosine(value: float) -> None:
    with np.errstate(all="ignore"):
        nothing = drawn(np.full(10, value))
    one = drawn(np.ones(10))
    assert cosine(nothing, one) is None or value == 1e300

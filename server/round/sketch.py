"""A small picture of a large vector, by which two changes of a model can be compared.

A count sketch (Charikar, Chen and Farach-Colton 2002): each coordinate is added, with a random
sign, to one of `WIDTH` buckets. It is linear, so that the sketch of a mean is the mean of the
sketches, and the dot product of two sketches is that of the vectors, with a standard error of
|x| |y| / sqrt(WIDTH): 0.022 of a cosine. So the server compares the updates of a round with each
other and holds 8 KiB of each of them, not the update.

The signs are those of one fixed block, and each block of a vector is turned by a number of buckets
of its own and has a sign of its own: whole models cost no random numbers but two a block.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 2048
"""Numbers of a sketch."""
BLOCK: Final = 1 << 15
"""Coordinates that are added at a time; a multiple of `WIDTH`."""

Sketch = NDArray[np.float32]


class Sketcher:
    """Makes sketches that can be compared with each other: all of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        drawn = np.random.Generator(np.random.PCG64(seed))
        self.signs = drawn.choice(np.array([-1.0, 1.0]), BLOCK)
        self._drawn = np.random.Generator(np.random.PCG64([seed, 1]))
        self._turns: list[tuple[int, float]] = []

    def begin(self) -> Pen:
        """Return what draws one vector, block after block."""
        return Pen(self)

    def turn(self, block: int) -> tuple[int, float]:
        """Return by how many buckets a block is turned, and its sign; drawn once for all vectors."""
        while block >= len(self._turns):
            sign = 1.0 if self._drawn.integers(2) else -1.0
            self._turns.append((int(self._drawn.integers(WIDTH)), sign))
        return self._turns[block]


class Pen:
    """Draws the sketch of one vector, whose blocks come in the order of all other vectors'."""

    def __init__(self, sketcher: Sketcher) -> None:
        self._sketcher = sketcher
        self._block = 0
        self._buckets = np.zeros(WIDTH)

    def add(self, block: NDArray[np.float64]) -> None:
        """Add the next coordinates, at most `BLOCK` of them."""
        turn, sign = self._sketcher.turn(self._block)
        self._block += 1
        signs = self._sketcher.signs
        whole = block.size - block.size % WIDTH
        # Products with 1 and -1 are exact, and einsum adds them row by row without keeping them; it
        # calls no BLAS.
        rows = np.einsum(
            "ij,ij->j", block[:whole].reshape(-1, WIDTH), signs[:whole].reshape(-1, WIDTH)
        )
        rows[: block.size - whole] += block[whole:] * signs[whole : block.size]
        rows *= sign
        self._buckets[turn:] += rows[: WIDTH - turn]
        self._buckets[:turn] += rows[WIDTH - turn :]

    def drawn(self) -> Sketch:
        """Return the sketch, divided by its own length: only directions are compared."""
        with np.errstate(over="ignore", invalid="ignore"):
            length = float(np.sqrt(np.square(self._buckets).sum()))
        if length == 0.0 or not math.isfinite(length):
            return np.zeros(WIDTH, np.float32)
        return (self._buckets / length).astype(np.float32)


def cosine(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Return the cosine of the angle between two sketched vectors, None where one of them is 0."""
    x = one.astype(np.float64)
    y = other.astype(np.float64)
    # Sums and no np.dot, which would start the threads of BLAS.
    lengths = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    if lengths == 0.0:
        return None
    return max(-1.0, min(1.0, float((x * y).sum()) / lengths))

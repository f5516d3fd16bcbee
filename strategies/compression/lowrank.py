"""Two factors for each matrix: PowerSGD (Vogels et al. 2019, arXiv 1905.13727, algorithm 1).

An array of several dimensions is a matrix M of its first one by all others. With Q of the round
before, one step of power iteration is

    P = orthonormal(M Q)        Q <- M^T P        decoded: P Q^T

and what is left, M - P Q^T, is added to the next change (error feedback). Here each silo sends its
own P and Q, and the server takes the mean of the products: the paper's means of P and of Q need
two exchanges a step. Arrays whose factors would not be smaller travel whole.

Sums are numpy's own and not BLAS's, whose threads would compete with other work on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from strategies.compression.codec import (
    Arrays,
    Codec,
    Encoded,
    Layout,
    Row,
    Seeds,
    Shapes,
    add_kept,
    parts,
)

FACTORS: Final = "factors"
"""P and Q of each matrix, one behind the other."""
WHOLE: Final = "whole"
RESIDUAL: Final = "residual"
WARM: Final = "warm"
"""What a silo keeps beside the residual: Q of each matrix."""
CHUNK: Final = 1 << 16
"""Values of a matrix that are multiplied at a time, so that they stay in the processor's cache."""
TINY: Final = 1e-20
"""A norm below which a column is nothing but rounding."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class _Sides:
    """A matrix of the model, and the rank of its factors."""

    rows: int
    columns: int
    rank: int

    @property
    def size(self) -> int:
        return self.rank * (self.rows + self.columns)


class LowRank(Codec):
    """Factors of a rank; what is no matrix, or too small for it, in float32."""

    remembers = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def layout(self, shapes: Shapes) -> Layout:
        """See `Codec`."""
        factors = whole = 0
        for shape in shapes.values():
            sides = self._sides(shape)
            if sides is None:
                whole += math.prod(shape)
            else:
                factors += sides.size
        return {FACTORS: ("float32", (factors,)), WHOLE: ("float32", (whole,))}

    def encode(self, row: Row, shapes: Shapes, seeds: Seeds, memory: Arrays) -> Encoded:
        """See `Codec`."""
        add_kept(row, memory, RESIDUAL)
        warm = self._warm(shapes, seeds.own, memory)
        factors: list[Row] = []
        whole: list[Row] = []
        after: list[Row] = []
        for name, at in parts(shapes):
            sides = self._sides(shapes[name])
            if sides is None:
                whole.append(row[at].copy())
                row[at] = 0
                continue
            matrix = row[at].reshape(sides.rows, sides.columns)
            p = _orthonormal(_times(matrix, next(warm)))
            q = _transposed_times(matrix, p)
            for start, end in _runs(sides):
                matrix[start:end] -= _product(p[start:end], q)
            factors += [p.reshape(-1), q.reshape(-1)]
            after.append(q.reshape(-1))
        arrays = {FACTORS: _joined(factors), WHOLE: _joined(whole)}
        return Encoded(arrays, {RESIDUAL: row, WARM: _joined(after)})

    def decode(self, arrays: Arrays, shapes: Shapes, shared: int) -> Iterator[tuple[str, Row]]:
        """See `Codec`."""
        factors = arrays[FACTORS]
        whole = arrays[WHOLE]
        for name, shape in shapes.items():
            sides = self._sides(shape)
            if sides is None:
                size = math.prod(shape)
                yield name, whole[:size].astype(np.float32)
                whole = whole[size:]
                continue
            p = factors[: sides.rank * sides.rows].reshape(sides.rows, sides.rank)
            q = factors[p.size : sides.size].reshape(sides.columns, sides.rank)
            factors = factors[sides.size :]
            change = np.empty((sides.rows, sides.columns), np.float32)
            for start, end in _runs(sides):
                change[start:end] = _product(p[start:end], q)
            yield name, change.reshape(-1)

    def _sides(self, shape: tuple[int, ...]) -> _Sides | None:
        """Return the matrix that an array is; None for one that travels whole."""
        if len(shape) < 2 or not math.prod(shape):
            return None
        rows = shape[0]
        columns = math.prod(shape[1:])
        sides = _Sides(rows, columns, min(self.rank, rows, columns))
        return sides if sides.size < rows * columns else None

    def _warm(self, shapes: Shapes, seed: int, memory: Arrays) -> Iterator[Matrix]:
        """Yield the Q that each matrix begins with: that of the round before, or drawn.

        A column of zeros would stay one for ever: it is drawn anew.
        """
        kept = memory.get(WARM)
        matrices = [sides for shape in shapes.values() if (sides := self._sides(shape))]
        size = sum(sides.columns * sides.rank for sides in matrices)
        if kept is None or kept.shape != (size,) or kept.dtype != np.float32:
            kept = np.zeros(size, np.float32)
        draws = np.random.Generator(np.random.SFC64(seed))
        for sides in matrices:
            size = sides.columns * sides.rank
            q = kept[:size].reshape(sides.columns, sides.rank).copy()
            kept = kept[size:]
            empty = ~q.any(axis=0)
            if empty.any():
                drawn = draws.standard_normal((sides.columns, sides.rank), np.float32)
                q[:, empty] = drawn[:, empty]
            yield q


def _runs(sides: _Sides) -> Iterator[tuple[int, int]]:
    """Yield the rows of a matrix that are multiplied at a time."""
    step = max(CHUNK // sides.columns, 1)
    for start in range(0, sides.rows, step):
        yield start, min(start + step, sides.rows)


def _times(matrix: Matrix, q: Matrix) -> Matrix:
    """Return M Q."""
    rows, columns = matrix.shape
    result = np.empty((rows, q.shape[1]), np.float32)
    turned = np.ascontiguousarray(q.T)
    for start, end in _runs(_Sides(rows, columns, q.shape[1])):
        for column, factor in enumerate(turned):
            result[start:end, column] = (matrix[start:end] * factor).sum(axis=1)
    return result


def _transposed_times(matrix: Matrix, p: Matrix) -> Matrix:
    """Return M^T P."""
    rows, columns = matrix.shape
    result = np.zeros((p.shape[1], columns), np.float32)
    for start, end in _runs(_Sides(rows, columns, p.shape[1])):
        for column in range(p.shape[1]):
            result[column] += (matrix[start:end] * p[start:end, column, None]).sum(axis=0)
    return np.ascontiguousarray(result.T)


def _product(p: Matrix, q: Matrix) -> Matrix:
    """Return P Q^T, a column of both after the other."""
    result = p[:, :1] * q[:, 0]
    for column in range(1, p.shape[1]):
        result += p[:, column, None] * q[:, column]
    return result


def _orthonormal(p: Matrix) -> Matrix:
    """Return the columns made orthonormal (Gram-Schmidt, twice); those that are nothing become zero."""
    columns = p.T.astype(np.float64)
    for number, column in enumerate(columns):
        before = math.sqrt(float((column * column).sum()))
        for _ in range(2):
            for earlier in columns[:number]:
                column -= (column * earlier).sum() * earlier
        norm = math.sqrt(float((column * column).sum()))
        column *= 1 / norm if norm > max(TINY, 1e-9 * before) else 0
    return np.ascontiguousarray(columns.T, np.float32)


def _joined(rows: list[Row]) -> Row:
    return np.concatenate(rows) if rows else np.empty(0, np.float32)

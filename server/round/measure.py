"""How far an update went: one pass over its values, in chunks that stay in the processor's cache.

Nothing here calls BLAS (`np.dot`, `np.vdot`, `np.linalg.norm`): its threads would compete with
workers that have every core already, and the same 16 MB then took 40 times as long.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.round.judgement import AdmissionFault
from server.round.sketch import BLOCK, Pen
from strategies.wire.half_types import of_bits
from strategies.wire.objects import BFLOAT16

CHUNK: Final = BLOCK
"""Values a step: two buffers of 256 KiB in float64."""


class Measure(NamedTuple):
    """Of one array: the sum of the squared differences to the global model, and the largest
    magnitude of its values, or of their differences where those are averaged.
    """

    squares: float
    largest: float


def measure(
    name: str,
    dtype: str,
    new: np.ndarray,
    old: np.ndarray,
    pen: Pen | None = None,
    *,
    as_change: bool = False,
) -> Measure:
    """Measure an array of floats, and draw its change with `pen`; others are zeros.

    `as_change` says whether its changes are averaged, and not its values.

    Raises AdmissionFault MDW-614 at a value that is not finite.
    """
    if new.dtype.kind not in "fc" and dtype != BFLOAT16:
        return Measure(0.0, 0.0)
    squares = 0.0
    largest = 0.0
    wide = np.complex128 if new.dtype.kind == "c" else np.float64
    buffer = np.empty(min(CHUNK, new.size), wide)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, new.size, CHUNK):
            piece = _numbers(new[start : start + CHUNK], dtype)
            change = buffer[: piece.size]
            # Copied and then worked on in place: numpy's own casts within an operation take longer.
            change[...] = piece
            change -= _numbers(old[start : start + CHUNK], dtype)
            magnitude = _magnitude(name, piece)
            # A complex number is measured by its parts.
            parts = change.view(np.float64)
            if as_change:
                magnitude = max(float(parts.max()), -float(parts.min()))
            largest = max(largest, magnitude)
            if pen is not None:
                _draw(pen, parts)
            squares += float(np.multiply(parts, parts, out=parts).sum())
    return Measure(squares, largest)


def _magnitude(name: str, piece: np.ndarray) -> float:
    """Return the largest magnitude; raises AdmissionFault where a value is not finite."""
    # Not the largest of np.abs, which would write a chunk only to read it once; complex numbers have
    # no other order. A NaN comes out of both.
    ordered = piece if piece.dtype.kind != "c" else np.abs(piece)
    largest = max(float(ordered.max()), -float(ordered.min()))
    if not math.isfinite(largest) and not np.isfinite(piece).all():
        raise AdmissionFault("MDW-614", f"{name!r:.80} holds values that are not finite")
    return largest


def _draw(pen: Pen, parts: NDArray[np.float64]) -> None:
    # Of a complex array there are twice as many.
    for start in range(0, parts.size, BLOCK):
        pen.add(parts[start : start + BLOCK])


def _numbers(piece: np.ndarray, dtype: str) -> np.ndarray:
    return of_bits(piece) if dtype == BFLOAT16 else piece

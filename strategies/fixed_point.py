"""Sums of n*w in fixed point: exact, and so the same bits in whatever order updates are added.

Floating-point addition depends on its order; addition of whole numbers does not. So each product n*w
is turned into fixed point on its own and added in whole numbers: `high` counts steps of 2^-16, `low`
steps of 2^-63 below them. n*w of a float32 or float16 parameter is exact in float64 for n < 2^29, so
its sum is exact for |w| >= 2^-40 and off by less than 2^-63 an update below that; float64 parameters
are rounded once an update, to 53 bits.

The counters lie in float64, which holds whole numbers up to 2^53 and adds them in half the time that
integers take; `high` moves to int64 before a sum could leave that range. Either gives the same bits.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.chunks import CHUNK, chunks
from strategies.wire.half_types import wide

HIGH_BITS: Final = 16
LOW_BITS: Final = 47
LIMIT: Final = 2.0 ** (62 - HIGH_BITS)
"""The largest sum of n*|w| that the counters hold, 7.0e13."""
WHOLE: Final = 2.0**53
"""Up to which float64 holds every whole number."""
CARRY_EVERY: Final = 32
"""Updates after which `low` (below 2^47 each) is carried into `high`, before it leaves `WHOLE`."""


def _fits_a_float(reach: float) -> bool:
    # Half of the room: each update is rounded down to whole steps, and `low` is carried.
    return reach * 2.0**HIGH_BITS < WHOLE / 2


class _Scratch:
    """Room for the steps between one chunk of an update and its sum."""

    def __init__(self, size: int) -> None:
        size = min(size, CHUNK)
        self._product = np.empty(size)
        self._whole = np.empty(size)

    def fold(
        self,
        piece: NDArray[Any],
        weight: int,
        high: NDArray[Any],
        low: NDArray[np.float64],
        base: NDArray[Any] | None = None,
    ) -> None:
        """Add n*w of a chunk to its counters, or with a `base` n*(w - base)."""
        product = self._product[: piece.size]
        whole = self._whole[: piece.size]
        # Copied and then worked on in place: numpy's own casts within an operation take longer.
        product[...] = piece
        if base is not None:
            product -= base
        product *= weight * 2.0**HIGH_BITS
        np.floor(product, out=whole)
        product -= whole
        _add_whole(high, whole)
        product *= 2.0**LOW_BITS
        low += np.floor(product, out=product)

    def mean(
        self,
        high: NDArray[Any],
        low: NDArray[np.float64],
        weight: int,
        base: NDArray[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the quotient of a chunk's counters and the sum of weights, from its `base` on.

        The counters are used up.
        """
        total = self._product[: high.size]
        if high.dtype == np.int64:
            # A float has both terms below exactly, and rounds their sum alone, however it is cut.
            _carry(high, low)
        np.multiply(high, 2.0**-HIGH_BITS, out=total)
        low *= 2.0 ** -(HIGH_BITS + LOW_BITS)
        total += low
        total /= weight
        if base is not None:
            total += base
        return total


class Sum:
    """The sum of n*w of one array of floats, in fixed point: high * 2^-16 + low * 2^-63.

    With a `base`, one row of the model that was sent, that of n*(w - base). `dtype` is that of the
    mean.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], base: NDArray[Any] | None = None
    ) -> None:
        size = math.prod(shape)
        self._shape = shape
        self._dtype = dtype
        self._base = base
        self.high: NDArray[Any] = np.zeros(size)
        self.low = np.zeros(size)
        self._scratch = _Scratch(size)
        self._count = 0

    def add(self, array: NDArray[Any], weight: int, reach: float) -> None:
        """Add an update, with which the sum of all n*|w| is at most `reach`."""
        if self.high.dtype != np.int64 and not _fits_a_float(reach):
            self.high = self.high.astype(np.int64)
        flat = array.reshape(-1)
        for at in chunks(flat.size):
            base = None if self._base is None else wide(self._base[at])
            self._scratch.fold(wide(flat[at]), weight, self.high[at], self.low[at], base)
        self._count += 1
        if self._count % CARRY_EVERY == 0:
            for at in chunks(flat.size):
                _carry(self.high[at], self.low[at])

    def mean(self, weight: int) -> NDArray[Any]:
        """Return the quotient of the sum and the sum of weights; once, for it is used up."""
        mean = np.empty(self._shape, self._dtype)
        flat = mean.reshape(-1)
        for at in chunks(flat.size):
            base = None if self._base is None else wide(self._base[at])
            flat[at] = self._scratch.mean(self.high[at], self.low[at], weight, base)
        return mean


def _add_whole(high: NDArray[Any], whole: NDArray[np.float64]) -> None:
    """Add whole numbers in float64 to counters in float64 or int64."""
    high += whole if high.dtype == whole.dtype else whole.astype(high.dtype)


def _carry(high: NDArray[Any], low: NDArray[np.float64]) -> None:
    carried = np.floor(low * 2.0**-LOW_BITS)
    _add_whole(high, carried)
    carried *= 2.0**LOW_BITS
    low -= carried

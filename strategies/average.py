"""The weighted mean of updates as they arrive: the same bits in any order of arrival, one update's memory at a time.

Floating-point addition depends on its order; integer addition does not. So each product n*w is turned into fixed
point on its own and added as integers: `high` counts steps of 2^-16, `low` steps of 2^-63 below them, 16 bytes a
parameter however many updates come. n*w of a float32 or float16 parameter is exact in float64 for n < 2^29, so its
sum is exact for |w| >= 2^-40 and off by less than 2^-63 an update below that; float64 parameters are rounded once
an update, to 53 bits. docs/strategies.md has the measured cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf.errors import WireError

Arrays = Mapping[str, NDArray[Any]]

CHUNK: Final = 1 << 14
"""Elements folded at a time: their temporaries stay in the processor's cache."""
HIGH_BITS: Final = 16
LOW_BITS: Final = 47
LIMIT: Final = 2.0 ** (62 - HIGH_BITS)
"""The largest sum of n*|w| that the counters hold, 7.0e13."""
CARRY_EVERY: Final = 1 << 15
"""Updates after which `low` (below 2^47 each) is carried into `high`, before it could overflow 63 bits."""
_FLOATS: Final = "f"
_COUNTS: Final = "iub"


@dataclass
class _FixedPoint:
    """Sums of n*w for one array of floats: high * 2^-16 + low * 2^-63."""

    high: NDArray[np.int64]
    low: NDArray[np.int64]


class WeightedMean:
    """sum(n_k * w_k) / sum(n_k) over updates k of named arrays, independent of their order to the bit.

    Integer and boolean arrays are counters (BatchNorm's `num_batches_tracked`): the mean of counts is no count and
    their sum would grow with the number of silos, so the largest is kept. Arrays of floats, running means and
    variances among them, are averaged. One update alone comes back as it was, bit for bit.
    """

    def __init__(self) -> None:
        self.weight = 0
        self.count = 0
        self._first: tuple[dict[str, NDArray[Any]], int] | None = None  # not folded before a second one comes
        self._sums: dict[str, _FixedPoint] = {}
        self._reach: dict[str, float] = {}  # sum of n * max|w|
        self._largest: dict[str, NDArray[Any]] = {}
        self._layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._product, self._whole, self._steps = np.empty(CHUNK), np.empty(CHUNK), np.empty(CHUNK, np.int64)

    def add(self, arrays: Arrays, weight: int) -> None:
        """Fold one update in, weighted by its number of examples; the update itself is not changed.

        Raises WireError, with nothing folded: MDW-660 names, shape or dtype differ from the first update's, MDW-661
        values are not finite, MDW-662 the sum leaves the range of the counters, MDW-663 the weight is not positive.
        """
        if weight < 1:
            raise WireError("MDW-663", f"An update's weight is {weight}.", "It must be a positive number of examples.")
        self._check_layout(arrays)
        reach = {
            name: self._reach.get(name, 0.0) + weight * _largest_magnitude(name, array)
            for name, array in arrays.items()
            if _averaged(array)
        }
        for name, value in reach.items():
            if value > LIMIT:
                raise _out_of_range(name, value)
        self._reach = reach
        self.count += 1
        self.weight += weight
        if self.count == 1:
            self._first = dict(arrays), weight
            return
        if self._first is not None:
            held, self._first = self._first, None
            self._fold(*held)
        self._fold(arrays, weight)

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the mean, each array in its own dtype; raises WireError MDW-664 when nothing was added."""
        if not self.count:
            raise WireError("MDW-664", "There is no update to average.", "At least one silo must answer.")
        if self._first is not None:
            return {name: array.copy() for name, array in self._first[0].items()}
        return {
            name: self._mean(name, shape, dtype) if name in self._sums else self._largest[name].copy()
            for name, (shape, dtype) in self._layout.items()
        }

    def _check_layout(self, arrays: Arrays) -> None:
        layout = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if not self.count:
            for name, array in arrays.items():
                if array.dtype.kind not in _FLOATS + _COUNTS or array.dtype.itemsize > 8:
                    raise _mismatch(name, f"its dtype {array.dtype} can't be averaged")
            self._layout = layout
            return
        for name in sorted(self._layout.keys() ^ layout.keys()):
            raise _mismatch(name, "it is missing" if name in self._layout else "the first update has no such array")
        for name, (shape, dtype) in self._layout.items():
            if layout[name] != (shape, dtype):
                raise _mismatch(name, f"it is {layout[name][1]}{layout[name][0]} where the first is {dtype}{shape}")

    def _fold(self, arrays: Arrays, weight: int) -> None:
        for name, array in arrays.items():
            if not _averaged(array):
                held = self._largest.get(name)
                self._largest[name] = array.copy() if held is None else np.asarray(np.maximum(held, array))
                continue
            if name not in self._sums:
                self._sums[name] = _FixedPoint(np.zeros(array.size, np.int64), np.zeros(array.size, np.int64))
            self._fold_floats(array.reshape(-1), weight, self._sums[name])
            if self.count % CARRY_EVERY == 0:
                _carry(self._sums[name].high, self._sums[name].low)

    def _fold_floats(self, flat: NDArray[Any], weight: int, sums: _FixedPoint) -> None:
        for start in range(0, flat.size, CHUNK):
            piece = flat[start : start + CHUNK]
            n = piece.size
            product, whole, steps = self._product[:n], self._whole[:n], self._steps[:n]
            np.multiply(piece, weight * 2.0**HIGH_BITS, out=product, dtype=np.float64)
            np.floor(product, out=whole)
            np.copyto(steps, whole, casting="unsafe")
            sums.high[start : start + CHUNK] += steps
            np.subtract(product, whole, out=product)
            np.multiply(product, 2.0**LOW_BITS, out=product)
            np.copyto(steps, product, casting="unsafe")
            sums.low[start : start + CHUNK] += steps

    def _mean(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        sums, mean = self._sums[name], np.empty(shape, dtype)
        flat = mean.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            high, low = sums.high[start : start + CHUNK].copy(), sums.low[start : start + CHUNK].copy()
            _carry(high, low)
            total = np.ldexp(high.astype(np.float64), -HIGH_BITS)
            total += np.ldexp(low.astype(np.float64), -HIGH_BITS - LOW_BITS)
            flat[start : start + CHUNK] = total / self.weight
        return mean


class MetricMeans:
    """Example-weighted means of the metrics that every reply has, independent of the order of arrival to the bit."""

    def __init__(self) -> None:
        self.weight = 0
        self._count = 0
        self._sums: dict[str, Fraction] = {}
        self._seen: dict[str, int] = {}
        self._undefined: set[str] = set()

    def add(self, metrics: Mapping[str, object], weight: int) -> None:
        """Fold one reply's metrics in; lists and other values that are no number are left out."""
        self._count += 1
        self.weight += weight
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._seen[name] = self._seen.get(name, 0) + 1
                if math.isfinite(value):
                    self._sums[name] = self._sums.get(name, Fraction(0)) + weight * Fraction(value)
                else:
                    self._undefined.add(name)

    def result(self) -> dict[str, float]:
        """Return the means by name, sorted; NaN where any reply had a value that is not finite."""
        common = sorted(name for name, seen in self._seen.items() if seen == self._count)
        if not self.weight:
            return {}
        return {name: math.nan if name in self._undefined else float(self._sums[name] / self.weight) for name in common}


def _averaged(array: NDArray[Any]) -> bool:
    return array.dtype.kind in _FLOATS


def _largest_magnitude(name: str, array: NDArray[Any]) -> float:
    if not array.size:
        return 0.0
    largest = max(-float(array.min()), float(array.max()))
    if not math.isfinite(largest):
        raise WireError(
            "MDW-661", f"{name!r} of an update holds values that are not finite.", "Lower the learning rate."
        )
    return largest


def _carry(high: NDArray[np.int64], low: NDArray[np.int64]) -> None:
    high += low >> LOW_BITS
    low &= (1 << LOW_BITS) - 1


def _mismatch(name: str, why: str) -> WireError:
    return WireError("MDW-660", f"{name!r} of an update does not fit: {why}.", "All silos must train the same model.")


def _out_of_range(name: str, reach: float) -> WireError:
    return WireError(
        "MDW-662",
        f"{name!r}: examples times values add up to {reach:.3g}, more than {LIMIT:.3g}.",
        "The model diverges (lower the learning rate), or its values need scaling.",
    )

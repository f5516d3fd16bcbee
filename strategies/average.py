"""The weighted mean of updates as they arrive: the same bits in any order, in bounded memory.

Floating-point addition depends on its order; integer addition does not. So each product n*w is
turned into fixed point on its own and added as integers: `high` counts steps of 2^-16, `low` steps
of 2^-63 below them, 16 bytes a parameter however many updates come. n*w of a float32 or float16
parameter is exact in float64 for n < 2^29, so its sum is exact for |w| >= 2^-40 and off by less
than 2^-63 an update below that; float64 parameters are rounded once an update, to 53 bits. Of an
array whose values are large in the model that was sent, the changes are added up and not the
values: what the model itself holds then takes no room in the counters (`is_folded_as_change`). As long
as the updates themselves are no larger than those sums would be (four of float32) they are held
instead, and added up array by array at the end. docs/strategies.md has the measured cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf.errors import WireError

Arrays = Mapping[str, NDArray[Any]]

CHUNK: Final = 1 << 15
"""Elements folded at a time: their temporaries stay in the processor's cache."""
HIGH_BITS: Final = 16
LOW_BITS: Final = 47
LIMIT: Final = 2.0 ** (62 - HIGH_BITS)
"""The largest sum of n*|w| that the counters hold, 7.0e13."""
CARRY_EVERY: Final = 1 << 15
"""Updates after which `low` (below 2^47 each) is carried into `high`, before 63 bits overflow."""
_SUM_BYTES: Final = 16
"""Of one parameter, in fixed point."""
LARGE: Final = 2.0**7
"""A magnitude in the model beyond which an array's changes are averaged in place of its values.

Up to it the room is enough for 1,000 silos of the largest number of examples.
"""
_FLOATS: Final = "f"
_COUNTS: Final = "iub"


def largest_reach(updates: int) -> float:
    """Return how large weight * max|w| of each of so many updates may be, so that they have a mean.

    Whoever lets in no larger ones never meets MDW-662.
    """
    # A whole number: any sum of k such reaches, rounded as it may be, is then at most k of them,
    # which is a
    # whole number too and exact. A quotient could pass LIMIT by its rounding.
    return float(int(LIMIT) // max(updates, 1))


def is_folded_as_change(values: NDArray[Any]) -> bool:
    """Say whether the changes of such an array of the model are averaged, and not its values."""
    if not _averaged(values.dtype) or not values.size:
        return False
    return max(-float(values.min()), float(values.max())) > LARGE


@dataclass(frozen=True)
class Checked:
    """An update that a mean takes, and what its arrays then reach."""

    arrays: dict[str, NDArray[Any]]
    weight: int
    reach: dict[str, float]


class WeightedMean:
    """sum(n_k * w_k) / sum(n_k) over updates k of named arrays: the same bits in any order.

    Integer and boolean arrays are counters (BatchNorm's `num_batches_tracked`): the mean of counts
    is no count and their sum would grow with the number of silos, so the largest is kept. Arrays of
    floats, running means and variances among them, are averaged. One update alone comes back as it
    was, bit for bit. `before` is the model that was sent, where there is one.
    """

    def __init__(self, before: Arrays | None = None) -> None:
        self.weight = 0
        self.count = 0
        self._before = {} if before is None else before
        self._bases: dict[str, NDArray[Any]] = {}
        """The arrays of `before` whose changes are averaged, in one row each."""
        self._held: list[tuple[dict[str, NDArray[Any]], int]] = []
        self._sums: dict[str, _Sum | _Largest] = {}  # empty while updates are held
        self._reach: dict[str, float] = {}  # sum of n * max|w|
        self._layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def add(self, arrays: Arrays, weight: int) -> None:
        """Fold one update in, weighted by its number of examples; the update itself is not changed.

        Raises WireError, with nothing folded, as `checked` does.
        """
        self.fold(self.checked(arrays, weight))

    def checked(self, arrays: Arrays, weight: int) -> Checked:
        """Return an update as `fold` takes it, once it is known to fit; nothing is folded.

        Raises WireError: MDW-660 names, shape or dtype differ from the first update's, MDW-661
        values are not finite, MDW-662 the sum leaves the range of the counters, MDW-663 the weight
        is not positive.
        """
        if weight < 1:
            raise WireError(
                "MDW-663",
                f"An update's weight is {weight}.",
                "It must be a positive number of examples.",
            )
        self._check_layout(arrays)
        reach: dict[str, float] = {}
        for name, array in arrays.items():
            if not _averaged(array.dtype):
                continue
            far = _largest_magnitude(name, array)
            if name in self._bases:
                far = _largest_change(array, self._bases[name])
            reach[name] = self._reach.get(name, 0.0) + weight * far
            if reach[name] > LIMIT:
                raise _out_of_range(name, reach[name])
        return Checked(dict(arrays), weight, reach)

    def fold(self, update: Checked) -> None:
        """Fold an update in that was checked after the last one was folded."""
        arrays = update.arrays
        self._reach = update.reach
        self.count += 1
        self.weight += update.weight
        if self._sums:
            for name, array in arrays.items():
                self._sums[name].add(array, update.weight)
            return
        self._held.append((arrays, update.weight))
        size = sum(array.nbytes for array in arrays.values())
        if len(self._held) * size > sum(_SUM_BYTES * array.size for array in arrays.values()):
            self._sums = {name: self._added_up(name) for name in self._layout}
            self._held.clear()

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the mean, each array in its own dtype; once, for the sums are let go on the way.

        Raises WireError MDW-664 when nothing was added.
        """
        if not self.count:
            raise WireError(
                "MDW-664", "There is no update to average.", "At least one silo must answer."
            )
        if self.count == 1:
            return self._held.pop()[0]
        if self._sums:
            return {name: self._sums.pop(name).mean(self.weight) for name in self._layout}
        return {
            name: _mean_of(self._taken(name), self.weight, self._bases.get(name))
            for name in self._layout
        }

    def _added_up(self, name: str) -> _Sum | _Largest:
        """Return the sum of one array of the updates that are held, which let it go."""
        shape, dtype = self._layout[name]
        added: _Sum | _Largest = _Largest()
        if _averaged(dtype):
            added = _Sum(shape, dtype, self._bases.get(name))
        for array, weight in self._taken(name):
            added.add(array, weight)
        return added

    def _taken(self, name: str) -> list[tuple[NDArray[Any], int]]:
        return [(arrays.pop(name), weight) for arrays, weight in self._held]

    def _check_layout(self, arrays: Arrays) -> None:
        layout = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if not self.count:
            bases: dict[str, NDArray[Any]] = {}
            for name, array in arrays.items():
                if array.dtype.kind not in _FLOATS + _COUNTS or array.dtype.itemsize > 8:
                    raise _mismatch(name, f"its dtype {array.dtype} can't be averaged")
                before = self._before.get(name)
                if before is None or before.shape != array.shape:
                    continue
                if is_folded_as_change(before):
                    bases[name] = before.reshape(-1)
            self._layout = layout
            self._bases = bases
            return
        for name in sorted(self._layout.keys() ^ layout.keys()):
            raise _mismatch(
                name,
                "it is missing" if name in self._layout else "the first update has no such array",
            )
        for name, (shape, dtype) in self._layout.items():
            if layout[name] != (shape, dtype):
                raise _mismatch(
                    name,
                    f"it is {layout[name][1]}{layout[name][0]} where the first is {dtype}{shape}",
                )


class _Scratch:
    """Room for the steps between one chunk of an update and its sum."""

    def __init__(self, size: int) -> None:
        size = min(size, CHUNK)
        self._product = np.empty(size)
        self._whole = np.empty(size)
        self._steps = np.empty(size, np.int64)

    def fold(
        self,
        piece: NDArray[Any],
        weight: int,
        high: NDArray[np.int64],
        low: NDArray[np.int64],
        base: NDArray[Any] | None = None,
    ) -> None:
        """Add n*w of a chunk to its counters, or with a `base` n*(w - base)."""
        n = piece.size
        product = self._product[:n]
        whole = self._whole[:n]
        steps = self._steps[:n]
        scale = weight * 2.0**HIGH_BITS
        if base is None:
            np.multiply(piece, scale, out=product, dtype=np.float64)
        else:
            np.subtract(piece, base, out=product, dtype=np.float64)
            np.multiply(product, scale, out=product)
        np.floor(product, out=whole)
        np.copyto(steps, whole, casting="unsafe")
        high += steps
        np.subtract(product, whole, out=product)
        np.multiply(product, 2.0**LOW_BITS, out=product)
        np.copyto(steps, product, casting="unsafe")
        low += steps

    def mean(
        self,
        high: NDArray[np.int64],
        low: NDArray[np.int64],
        weight: int,
        base: NDArray[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the quotient of a chunk's counters and the sum of weights, from its `base` on.

        The counters are used up.
        """
        total = self._product[: high.size]
        rest = self._whole[: high.size]
        _carry(high, low)
        np.multiply(high, 2.0**-HIGH_BITS, out=total)
        np.multiply(low, 2.0 ** -(HIGH_BITS + LOW_BITS), out=rest)
        total += rest
        total /= weight
        if base is not None:
            total += base
        return total


class _Sum:
    """The sum of n*w of one array of floats, in fixed point: high * 2^-16 + low * 2^-63.

    With a `base`, one row of the model that was sent, that of n*(w - base).
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], base: NDArray[Any] | None = None
    ) -> None:
        size = math.prod(shape)
        self._shape = shape
        self._dtype = dtype
        self._base = base
        self.high = np.zeros(size, np.int64)
        self.low = np.zeros(size, np.int64)
        self._scratch = _Scratch(size)
        self._count = 0

    def add(self, array: NDArray[Any], weight: int) -> None:
        flat = array.reshape(-1)
        for at in _chunks(flat.size):
            base = None if self._base is None else self._base[at]
            self._scratch.fold(flat[at], weight, self.high[at], self.low[at], base)
        self._count += 1
        if self._count % CARRY_EVERY == 0:
            _carry(self.high, self.low)

    def mean(self, weight: int) -> NDArray[Any]:
        mean = np.empty(self._shape, self._dtype)
        flat = mean.reshape(-1)
        for at in _chunks(flat.size):
            base = None if self._base is None else self._base[at]
            high = self.high[at].copy()
            low = self.low[at].copy()
            flat[at] = self._scratch.mean(high, low, weight, base)
        return mean


class _Largest:
    """The largest values of one array of counts."""

    def __init__(self) -> None:
        self._largest: NDArray[Any] | None = None

    def add(self, array: NDArray[Any], weight: int) -> None:
        largest = self._largest
        self._largest = array.copy() if largest is None else np.asarray(np.maximum(largest, array))

    def mean(self, weight: int) -> NDArray[Any]:
        assert self._largest is not None  # at least one was added
        return self._largest


def _mean_of(
    updates: list[tuple[NDArray[Any], int]], weight: int, base: NDArray[Any] | None
) -> NDArray[Any]:
    """Return the mean of one array of a few updates.

    The bits of `_Sum`, a chunk of all at a time.
    """
    first = updates[0][0]
    if not _averaged(first.dtype):
        return np.asarray(np.maximum.reduce([array for array, _ in updates]))
    mean = np.empty(first.shape, first.dtype)
    scratch = _Scratch(first.size)
    flat = mean.reshape(-1)
    rows = [(array.reshape(-1), n) for array, n in updates]
    for at in _chunks(flat.size):
        size = flat[at].size
        high = np.zeros(size, np.int64)
        low = np.zeros(size, np.int64)
        below = None if base is None else base[at]
        for row, n in rows:
            scratch.fold(row[at], n, high, low, below)
        flat[at] = scratch.mean(high, low, weight, below)
    return mean


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def _averaged(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _FLOATS


def _largest_magnitude(name: str, array: NDArray[Any]) -> float:
    if not array.size:
        return 0.0
    largest = max(-float(array.min()), float(array.max()))
    if not math.isfinite(largest):
        raise WireError(
            "MDW-661",
            f"{name!r} of an update holds values that are not finite.",
            "Lower the learning rate.",
        )
    return largest


def _largest_change(array: NDArray[Any], base: NDArray[Any]) -> float:
    """Return the largest magnitude of the differences of two arrays of finite values."""
    flat = array.reshape(-1)
    largest = 0.0
    with np.errstate(over="ignore"):
        for at in _chunks(flat.size):
            change = np.subtract(flat[at], base[at], dtype=np.float64)
            largest = max(largest, float(change.max()), -float(change.min()))
    return largest


def _carry(high: NDArray[np.int64], low: NDArray[np.int64]) -> None:
    high += low >> LOW_BITS
    low &= (1 << LOW_BITS) - 1


def _mismatch(name: str, why: str) -> WireError:
    return WireError(
        "MDW-660",
        f"{name!r} of an update does not fit: {why}.",
        "All silos must train the same model.",
    )


def _out_of_range(name: str, reach: float) -> WireError:
    return WireError(
        "MDW-662",
        f"{name!r}: examples times values add up to {reach:.3g}, more than {LIMIT:.3g}.",
        "The model diverges (lower the learning rate), or its values need scaling.",
    )

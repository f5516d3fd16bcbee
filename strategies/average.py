"""The weighted mean of updates: the same bits in whatever order they arrive, in bounded memory.

Where all updates that a round may have fit into a number of bytes (`are_held`), they are held until
the last one is there and added up in float64 in the order of their silos' names
(`strategies.ordered_mean`). Of more, each is added up as it arrives, in whole numbers that no order
changes (`strategies.fixed_point`): 16 bytes a parameter, however many come. Which of the two it is,
is known before the round and never decided by who came first. Of an array whose values are large in
the model that was sent, the changes are averaged and not the values: what the model itself holds
then takes no room in the counters (`is_folded_as_change`). docs/strategies.md has the measured cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf.errors import WireError
from strategies.chunks import chunks
from strategies.cores import on_all_cores
from strategies.fixed_point import LIMIT, Sum
from strategies.ordered_mean import Rooms, mean_in_order
from strategies.wire.half_types import is_half, wide
from strategies.wire.objects import DTYPES

Arrays = Mapping[str, NDArray[Any]]

SUM_BYTES: Final = 16
"""Of one parameter, in fixed point."""
HELD_BYTES: Final = 2 * 2**30
"""Of the updates that are held, unless somebody says another number."""
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
    return _averaged(values.dtype) and _reach_of(values) > LARGE


def are_held(arrays: Iterable[tuple[str, tuple[int, ...]]], updates: int, most: int) -> bool:
    """Say whether so many updates of arrays of these types and shapes are held until all are there.

    They are up to `most` bytes, and where they take no more than their sums would.
    """
    size = 0
    sums = 0
    for dtype, shape in arrays:
        elements = math.prod(shape)
        size += elements * DTYPES[dtype].itemsize
        sums += elements * SUM_BYTES
    return updates * size <= max(most, sums)


@dataclass(frozen=True)
class Checked:
    """An update that a mean takes, and what its arrays then reach."""

    arrays: dict[str, NDArray[Any]]
    weight: int
    reach: dict[str, float]
    silo: str


class WeightedMean:
    """sum(n_k * w_k) / sum(n_k) over updates k of named arrays: the same bits in any order.

    Integer and boolean arrays are counters (BatchNorm's `num_batches_tracked`): the mean of counts
    is no count and their sum would grow with the number of silos, so the largest is kept. Arrays of
    floats, running means and variances among them, are averaged. One update alone comes back as it
    was, bit for bit. The mean of halves (`strategies.wire.half_types`) is float64, to be rounded
    once when it becomes a model. `before` is the model that was sent, where there is one. With
    `held` all updates stay in memory until the result, and are added up in the order of their
    silos' names.
    """

    def __init__(self, before: Arrays | None = None, *, held: bool = False) -> None:
        self.weight = 0
        self.count = 0
        self._before = {} if before is None else before
        self._bases: dict[str, NDArray[Any]] = {}
        """The arrays of `before` whose changes are averaged, in one row each."""
        self._all_held = held
        self._held: list[Checked] = []
        self._sums: dict[str, Sum | _Largest] = {}  # empty while updates are held
        self._reach: dict[str, float] = {}  # sum of n * max|w|
        self._layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def add(self, arrays: Arrays, weight: int, silo: str = "") -> None:
        """Fold one update in, weighted by its number of examples; the update itself is not changed.

        Raises WireError, with nothing folded, as `checked` does.
        """
        self.fold(self.checked(arrays, weight, silo=silo))

    def checked(
        self,
        arrays: Arrays,
        weight: int,
        largest: Mapping[str, float] | None = None,
        silo: str = "",
    ) -> Checked:
        """Return an update as `fold` takes it, once it is known to fit; nothing is folded.

        `largest` holds the largest magnitude of each array of floats, of its changes where those
        are folded, for an update whose values were looked at already and are finite. Raises
        WireError: MDW-660 names, shape or dtype differ from the first update's, MDW-661 values are
        not finite, MDW-662 the sum leaves the range of the counters, MDW-663 the weight is not
        positive.
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
            far = self._largest(name, array) if largest is None else largest[name]
            reach[name] = self._reach.get(name, 0.0) + weight * far
            if reach[name] > LIMIT:
                raise _out_of_range(name, reach[name])
        return Checked(dict(arrays), weight, reach, silo)

    def fold(self, update: Checked) -> None:
        """Fold an update in that was checked after the last one was folded."""
        self._reach = update.reach
        self.count += 1
        self.weight += update.weight
        if self._sums:
            for name, array in update.arrays.items():
                self._sums[name].add(array, update.weight, self._reach.get(name, 0.0))
            return
        self._held.append(update)
        # One alone is the mean, and needs no sums.
        if self.count > 1 and not self._all_held:
            self._sums = {name: self._added_up(name) for name in self._layout}
            self._held.clear()

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the mean, each array in its own dtype, halves in float64; once, for the sums are let
        go on the way.

        Raises WireError MDW-664 when nothing was added.
        """
        if not self.count:
            raise WireError(
                "MDW-664", "There is no update to average.", "At least one silo must answer."
            )
        if self.count == 1:
            return {name: wide(array) for name, array in self._held.pop().arrays.items()}
        if self._sums:
            return {name: self._sums.pop(name).mean(self.weight) for name in self._layout}
        self._held.sort(key=lambda update: update.silo)
        names = list(self._layout)
        mean = partial(self._mean_of_held, Rooms(self.count))
        means = on_all_cores(mean, names, self._bytes_held())
        return dict(zip(names, means, strict=True))

    def _bytes_held(self) -> int:
        return sum(one.nbytes for update in self._held for one in update.arrays.values())

    def _mean_of_held(self, rooms: Rooms, name: str) -> NDArray[Any]:
        taken = self._taken(name)
        if not _averaged(self._layout[name][1]):
            return np.asarray(np.maximum.reduce([array for array, _ in taken]))
        return mean_in_order(taken, self.weight, self._bases.get(name), rooms)

    def _largest(self, name: str, array: NDArray[Any]) -> float:
        """Return the largest magnitude of what is folded of an array."""
        far = _largest_magnitude(name, array)
        return _largest_change(array, self._bases[name]) if name in self._bases else far

    def _added_up(self, name: str) -> Sum | _Largest:
        """Return the sum of one array of the updates that are held, which let it go."""
        shape, dtype = self._layout[name]
        added: Sum | _Largest = _Largest()
        if _averaged(dtype):
            added = Sum(shape, type_of_mean(dtype), self._bases.get(name))
        for array, weight in self._taken(name):
            # What all of them reach is more than what the first do.
            added.add(array, weight, self._reach.get(name, 0.0))
        return added

    def _taken(self, name: str) -> list[tuple[NDArray[Any], int]]:
        return [(update.arrays.pop(name), update.weight) for update in self._held]

    def _check_layout(self, arrays: Arrays) -> None:
        layout = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if not self.count:
            bases: dict[str, NDArray[Any]] = {}
            for name, array in arrays.items():
                counts = array.dtype.kind in _COUNTS
                if not (counts or _averaged(array.dtype)) or array.dtype.itemsize > 8:
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


class _Largest:
    """The largest values of one array of counts."""

    def __init__(self) -> None:
        self._largest: NDArray[Any] | None = None

    def add(self, array: NDArray[Any], weight: int, reach: float) -> None:
        largest = self._largest
        self._largest = array.copy() if largest is None else np.asarray(np.maximum(largest, array))

    def mean(self, weight: int) -> NDArray[Any]:
        assert self._largest is not None  # at least one was added
        return self._largest


def type_of_mean(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which a mean of such arrays comes: that of halves is not rounded yet."""
    return np.dtype(np.float64) if is_half(dtype) else dtype


def _averaged(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _FLOATS or is_half(dtype)


def _reach_of(array: NDArray[Any]) -> float:
    """Return the largest magnitude of an array of floats, 0 of an empty one; not finite where one of
    its values is not.
    """
    if not array.size:
        return 0.0
    if not is_half(array.dtype):
        return max(-float(array.min()), float(array.max()))
    flat = array.reshape(-1)
    low, high = np.inf, -np.inf
    for at in chunks(flat.size):
        piece = wide(flat[at])
        # numpy's, which keep a NaN.
        low, high = np.minimum(low, piece.min()), np.maximum(high, piece.max())
    return max(-float(low), float(high))


def _largest_magnitude(name: str, array: NDArray[Any]) -> float:
    largest = _reach_of(array)
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
        for at in chunks(flat.size):
            change = np.subtract(wide(flat[at]), wide(base[at]), dtype=np.float64)
            largest = max(largest, float(change.max()), -float(change.min()))
    return largest


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

"""Few values of a change: the largest (topk), or those at drawn places (randk).

What is left out stays at the silo, and is added to its next change (error feedback, Stich et al.
2018, arXiv 1809.07599): each value is sent sooner or later, and none twice.

The places of topk travel. Those of randk do not: the row is cut into as many stretches as values
are sent, and a place is drawn in each, from the run's seed and the round, at all silos the same. So
they are sorted and different from each other by construction, and made of the raw words of a
generator, which no release of numpy changes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Final

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
    size_of,
)

VALUES: Final = "values"
PLACES: Final = "places"
RESIDUAL: Final = "residual"
"""What a silo keeps: the row of all that was left out."""
FOUR_BYTES: Final = 2**32
"""Values of a row up to which a place fits four bytes."""

Places = NDArray[Any]


class Sparse(Codec):
    """What both have in common."""

    remembers = True

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def encode(self, row: Row, shapes: Shapes, seeds: Seeds, memory: Arrays) -> Encoded:
        """See `Codec`."""
        add_kept(row, memory, RESIDUAL)
        places = self._chosen(row, seeds.shared)
        values = row[places]
        row[places] = 0
        return Encoded({VALUES: values, **self._told(places)}, {RESIDUAL: row})

    def decode(self, arrays: Arrays, shapes: Shapes, shared: int) -> Iterator[tuple[str, Row]]:
        """See `Codec`; raises ValueError for places that are not in order or not in the row."""
        values = arrays[VALUES]
        places = self._places(arrays, size_of(shapes), shared)
        for name, at in parts(shapes):
            change = np.zeros(at.stop - at.start, np.float32)
            first, last = np.searchsorted(places, [at.start, at.stop])
            change[places[first:last].astype(np.int64) - at.start] = values[first:last]
            yield name, change

    def count(self, size: int) -> int:
        """Return how many of so many values are sent: at least one."""
        return min(size, max(1, round(self.fraction * size)))

    @abstractmethod
    def _chosen(self, row: Row, seed: int) -> Places:
        """Return the places whose values are sent, in order."""

    @abstractmethod
    def _told(self, places: Places) -> Arrays:
        """Return what travels of the places."""

    @abstractmethod
    def _places(self, arrays: Arrays, size: int, seed: int) -> Places:
        """Return the places of what was sent."""


class TopK(Sparse):
    """The largest magnitudes of the whole change."""

    def layout(self, shapes: Shapes) -> Layout:
        """See `Codec`."""
        size = size_of(shapes)
        count = (self.count(size),)
        return {VALUES: ("float32", count), PLACES: (_type_of(size), count)}

    def _chosen(self, row: Row, seed: int) -> Places:
        count = self.count(row.size)
        if not count:
            return np.empty(0, _type_of(row.size))
        magnitudes = np.abs(row)
        # The least that is sent; of those that are just as large the first ones are taken.
        least = np.partition(magnitudes, row.size - count)[row.size - count]
        larger = np.flatnonzero(magnitudes > least)
        equal = np.flatnonzero(magnitudes == least)[: count - larger.size]
        return np.sort(np.concatenate([larger, equal])).astype(_type_of(row.size))

    def _told(self, places: Places) -> Arrays:
        return {PLACES: places}

    def _places(self, arrays: Arrays, size: int, seed: int) -> Places:
        places = arrays[PLACES]
        if places.size and int(places[-1]) >= size:
            raise ValueError("a place is behind the model's end")
        if not bool((places[1:] > places[:-1]).all()):
            raise ValueError("the places are not in order, or one of them occurs twice")
        return places


class RandK(Sparse):
    """One value of each stretch of the row."""

    def layout(self, shapes: Shapes) -> Layout:
        """See `Codec`."""
        return {VALUES: ("float32", (self.count(size_of(shapes)),))}

    def _chosen(self, row: Row, seed: int) -> Places:
        return drawn_places(row.size, self.count(row.size), seed)

    def _told(self, places: Places) -> Arrays:
        return {}

    def _places(self, arrays: Arrays, size: int, seed: int) -> Places:
        return drawn_places(size, self.count(size), seed)


def drawn_places(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` of `size` places in order, one in each of as many stretches of the row.

    The stretches differ by one place at most; each place of a stretch is as likely as the others,
    but for 2^-40 or less.
    """
    edges = np.arange(count + 1, dtype=np.int64) * (size // max(count, 1))
    edges += np.minimum(np.arange(count + 1), size % max(count, 1))
    lengths = np.diff(edges).astype(np.uint64)
    words = np.random.SFC64(seed).random_raw(count) if count else np.empty(0, np.uint64)
    return edges[:-1] + (np.asarray(words) % np.maximum(lengths, 1)).astype(np.int64)


def _type_of(size: int) -> str:
    return "uint32" if size <= FOUR_BYTES else "uint64"

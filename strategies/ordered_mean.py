"""The mean of updates that are all there, added up in float64 in a fixed order.

Two passes over a piece of them that stays in the processor's cache: as float64, then times the
number of examples and added, one update after another. Nothing here calls BLAS: its threads would
compete with whoever has every core.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.chunks import CHUNK, chunks
from strategies.wire.half_types import is_half, wide

AT_ONCE: Final = 16
"""Updates of which a chunk is in the cache at a time; more are added to what these make."""
EXACT_BELOW: Final = 2**29
"""Examples up to which their product with a float32 has a float64 of its own."""


class Rooms(threading.local):
    """What a chunk of each update is put into: made once for several arrays, in each thread anew."""

    def __init__(self, updates: int) -> None:
        self._terms = np.zeros((1 + min(updates, AT_ONCE)) * CHUNK)
        self._total = np.empty(CHUNK)

    def terms(self, rows: int, columns: int) -> NDArray[np.float64]:
        """Return room for so many rows, one behind the other."""
        return self._terms[: rows * columns].reshape(rows, columns)

    def total(self, columns: int) -> NDArray[np.float64]:
        """Return room for the sum of them."""
        return self._total[:columns]


def mean_in_order(
    updates: Sequence[tuple[NDArray[Any], int]],
    weight: int,
    base: NDArray[Any] | None = None,
    rooms: Rooms | None = None,
) -> NDArray[Any]:
    """Return the mean of one array of floats, in its dtype, of halves in float64; `weight` is the sum
    of all weights.

    The order of the updates decides the last bit. With a `base`, one row of the model that was
    sent, the changes from it are averaged. `rooms`, for as many updates, serve several arrays.
    """
    if rooms is None:
        rooms = Rooms(len(updates))
    first = updates[0][0]
    mean = np.empty(first.shape, np.float64 if is_half(first.dtype) else first.dtype)
    flat = mean.reshape(-1)
    rows = [(array.reshape(-1), float(n)) for array, n in updates]
    groups = [rows[at : at + AT_ONCE] for at in range(0, len(rows), AT_ONCE)]
    # Row 0 is for what the groups before have made. A lone column would be added up in pairs, so
    # there are always two.
    most = max(2, min(CHUNK, flat.size))
    room = rooms.terms(1 + len(groups[0]), most)
    total = rooms.total(most)
    for at in chunks(flat.size):
        size = flat[at].size
        columns = max(2, size)
        below = None if base is None else wide(base[at])
        for number, group in enumerate(groups):
            _add(group, at, below, room[:, :columns], total[:columns], further=number > 0)
        made = total[:size]
        made /= weight
        if below is not None:
            made += below
        flat[at] = made
    return mean


def _add(
    group: Sequence[tuple[NDArray[Any], float]],
    at: slice,
    below: NDArray[Any] | None,
    room: NDArray[np.float64],
    total: NDArray[np.float64],
    *,
    further: bool,
) -> None:
    """Put the sum of n*w of a chunk of some updates into `total`; `further`: on top of it."""
    factors = np.ones(1 + len(group))
    for number, (row, n) in enumerate(group, 1):
        piece = row[at]
        term = room[number, : piece.size]
        # Copied first: numpy's own casts within an operation take longer.
        term[...] = wide(piece)
        if below is not None:
            term -= below
        if below is None and row.dtype.itemsize <= 4 and n < EXACT_BELOW:
            factors[number] = n
        else:
            # A product that is rounded is rounded here: whether a processor rounds it before it
            # adds, or once in all, must not be seen in the sum.
            term *= n
    start = 1
    if further:
        room[0] = total
        start = 0
    end = 1 + len(group)
    np.einsum("k,kc->c", factors[start:end], room[start:end], out=total)

"""A round's updates on disk, one private file each, and read back by columns.

A rule that compares updates with each other needs all of them. Here they take the disk of the
cohort times the model, and the memory of the cohort times one block of columns.

    spill.add("north", arrays)            # as each arrives; its arrays may then go
    rows = spill.rows(buckets)            # in the order of the names, whatever came first
    for block, values in rows.blocks():   # values (rows, columns), float64
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf.files.faults import FileFault, disk, shown
from conf.files.whole import PRIVATE, make_folder, write_new
from strategies.wire.half_types import FLOATS, HALVES

Arrays = Mapping[str, NDArray[Any]]
Flat = dict[str, NDArray[Any]]
"""All floats of a model in one row for each element type, by its name."""
Buckets = Sequence[Sequence[int]]
"""Which updates, by their place in the order of names, make each row."""

MOST_COLUMNS: Final = 1 << 15
"""Columns of a block: a row of them stays in the processor's cache."""
LEAST_COLUMNS: Final = 1 << 10
BLOCK_VALUES: Final = 1 << 21
"""Of a block of many rows: 16 MiB in float64."""


@dataclass(frozen=True)
class Span:
    """Where one array lies in the row of its element type, in elements."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def at(self) -> slice:
        """The elements of the row that are this array's."""
        return slice(self.start, self.start + math.prod(self.shape))


class FloatLayout:
    """Where each array of floats of a model lies, halves as float32; counters are not among them."""

    def __init__(self, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self.spans: dict[str, Span] = {}
        self.sizes: dict[str, int] = {}
        for name, (dtype, shape) in layout.items():
            if dtype not in FLOATS:
                continue
            row = "float32" if dtype in HALVES else dtype
            start = self.sizes.get(row, 0)
            self.spans[name] = Span(row, tuple(shape), start)
            self.sizes[row] = start + math.prod(shape)

    @property
    def nbytes(self) -> int:
        """The bytes of one update."""
        return sum(np.dtype(dtype).itemsize * size for dtype, size in self.sizes.items())

    def offset(self, dtype: str) -> int:
        """Return the byte of a file at which the row of an element type begins."""
        names = list(self.sizes)
        before = names[: names.index(dtype)]
        return sum(np.dtype(name).itemsize * self.sizes[name] for name in before)

    def parts(self, arrays: Arrays) -> Iterator[bytes]:
        """Yield an update's arrays as they lie in a file, one at a time."""
        for dtype in self.sizes:
            for name, span in self.spans.items():
                if span.dtype == dtype:
                    yield np.ascontiguousarray(arrays[name], np.dtype(dtype)).tobytes()

    def empty(self) -> Flat:
        """Return rows for a model that is about to be made."""
        return {dtype: np.empty(size, np.dtype(dtype)) for dtype, size in self.sizes.items()}

    def flat(self, arrays: Arrays) -> Flat:
        """Return a copy of a model's arrays of floats in one row for each element type."""
        rows = self.empty()
        for name, span in self.spans.items():
            rows[span.dtype][span.at] = arrays[name].reshape(-1)
        return rows

    def named(self, rows: Flat) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, as parts of the rows."""
        return {
            name: rows[span.dtype][span.at].reshape(span.shape) for name, span in self.spans.items()
        }


@dataclass(frozen=True)
class Block:
    """Some columns of the row of one element type."""

    dtype: str
    at: slice

    @property
    def size(self) -> int:
        """How many columns there are."""
        return int(self.at.stop - self.at.start)


class Spill:
    """The updates of one round, in a folder that whoever names it removes."""

    def __init__(self, folder: Path, layout: FloatLayout) -> None:
        """Begin with an empty folder. Raises FileFault."""
        self.layout = layout
        self._folder = folder
        self._files: dict[str, Path] = {}
        clear(folder)
        make_folder(folder, mode=0o700)

    def __len__(self) -> int:
        return len(self._files)

    def add(self, name: str, arrays: Arrays) -> None:
        """Write the floats of one update, which were compared with the layout; raises FileFault."""
        path = self._folder / f"{len(self._files):06d}"
        # Not synced: after a crash the round is asked again.
        write_new(path, self.layout.parts(arrays), mode=PRIVATE)
        self._files[name] = path

    @property
    def names(self) -> list[str]:
        """Whose updates there are, sorted: the order in which rows and buckets count them."""
        return sorted(self._files)

    def rows(self, buckets: Buckets, weights: Sequence[int]) -> Rows:
        """Return the means of the updates of each bucket, by their weights; see `Rows`."""
        return Rows([self._files[name] for name in self.names], self.layout, buckets, weights)


class Rows:
    """The rows that a rule compares: updates, or the means of a few, never all in memory."""

    def __init__(
        self, files: Sequence[Path], layout: FloatLayout, buckets: Buckets, weights: Sequence[int]
    ) -> None:
        self.layout = layout
        self.weights = np.array([sum(weights[i] for i in bucket) for bucket in buckets], np.float64)
        """What each row weighs: its updates together."""
        self._files = files
        self._buckets = buckets
        self._weights = weights

    def __len__(self) -> int:
        return len(self._buckets)

    def blocks(self) -> Iterator[tuple[Block, NDArray[np.float64]]]:
        """Yield the columns, a block of all rows at a time; the next one takes its memory.

        Raises FileFault.
        """
        columns = min(MOST_COLUMNS, max(LEAST_COLUMNS, BLOCK_VALUES // max(len(self), 1)))
        for dtype, size in self.layout.sizes.items():
            width = min(columns, size)
            values = np.empty((len(self), width))
            read = np.empty(width, np.dtype(dtype))
            for start in range(0, size, columns):
                block = Block(dtype, slice(start, min(start + columns, size)))
                found = values[:, : block.size]
                for row, bucket in enumerate(self._buckets):
                    self._read_row(bucket, block, read[: block.size], found[row])
                yield block, found

    def _read_row(
        self, bucket: Sequence[int], block: Block, read: NDArray[Any], row: NDArray[np.float64]
    ) -> None:
        """Read the mean of a bucket's updates into a row."""
        offset = self.layout.offset(block.dtype) + block.at.start * read.itemsize
        if len(bucket) == 1:
            _read_at(self._files[bucket[0]], offset, read)
            row[...] = read
            return
        row[...] = 0.0
        for update in bucket:
            _read_at(self._files[update], offset, read)
            row += np.multiply(read, float(self._weights[update]), dtype=np.float64)
        row /= float(sum(self._weights[update] for update in bucket))


def clear(folder: Path) -> None:
    """Remove a folder of updates, also one that a killed process left; of a link the link alone."""
    with suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def check_room(folder: Path, updates: int, nbytes: int) -> None:
    """Raise FileFault MDW-513 where so many updates of so many bytes each have no room.

    Before anybody trains for them. What is free then may be taken by others meanwhile; that ends
    the round with the same code.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    with disk("look at", place):
        free = shutil.disk_usage(place).free
    needed = updates * nbytes
    if needed > free:
        raise FileFault(
            "MDW-513",
            f"A round's {updates} updates are held on disk and need {needed / 1e6:,.1f} MB;"
            f" {shown(place)} has {free / 1e6:,.1f} MB free.",
            "Free some space or set run.output to a larger disk, ask fewer silos (run.cohort), or"
            " choose strategy=fedavg, which holds none. Then resume.",
            path=str(place),
        )


def _read_at(path: Path, offset: int, into: NDArray[Any]) -> None:
    """Fill an array from a place in a file, which is opened for it alone.

    A thousand silos' files are more than a process may have open.
    """
    with disk("read", path):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            rest = memoryview(into.view(np.uint8))  # type: ignore[arg-type]  # numpy's stubs for 3.11 lack it
            while rest:
                count = os.preadv(handle, [rest], offset)
                if count == 0:
                    raise OSError(5, "the file has become shorter")
                rest = rest[count:]
                offset += count
        finally:
            os.close(handle)

"""The updates of a round in files, for a strategy that wants a list of them: its arrays are there to
be read, and take no memory that could not be given back.

Any strategy of Flower's gets such arrays without knowing it. What it copies of them is its own:
FedMedian one layer of all at a time, Krum all of them. A file has no name any more once it is
mapped, so that its space is free when the update is dropped, also where the process is killed.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from flwr.app import ArrayRecord, Message

from conf.files.faults import FileFault, disk
from conf.files.whole import PRIVATE, make_folder, write_new
from strategies.spill import check_room
from strategies.wire import protocol
from strategies.wire.objects import Pieces, view

log = logging.getLogger(__name__)

HELD: Final = "updates"
"""The folder in a run's for the updates of the round in progress, where they are held on disk."""
HELD_IN_MEMORY: Final = 64 * 2**20
"""Bytes of a round's updates up to which files are not worth it."""
ALIGNED: Final = 64
"""Bytes between two arrays' beginnings are a multiple of this: elements are read where they lie."""


class MappedReplies:
    """Puts a round's updates into files, where they are many bytes and there is room."""

    def __init__(self, folder: Path, updates: int, nbytes: int) -> None:
        """`nbytes` are those of one update, as large as the model that was sent."""
        self._folder = folder
        self._count = 0
        self._mapped = updates * nbytes > HELD_IN_MEMORY and self._is_room(updates, nbytes)

    def held(self, reply: Message) -> Message:
        """Return the reply, with its arrays in a file where that is worth it."""
        if not self._mapped:
            return reply
        self._count += 1
        path = self._folder / f"{self._count:06d}"
        try:
            for record in protocol.records(reply.content, ArrayRecord).values():
                _map_arrays(record, path)
        except FileFault as fault:
            # What is in memory is as good; only memory may be short then.
            log.warning("updates are held in memory: %s", fault)
            self._mapped = False
        return reply

    def _is_room(self, updates: int, nbytes: int) -> bool:
        try:
            check_room(self._folder, updates, nbytes)
            make_folder(self._folder, mode=0o700)
        except FileFault as fault:
            log.warning("updates are held in memory: %s", fault)
            return False
        return True


def _map_arrays(record: ArrayRecord, path: Path) -> None:
    """Put the arrays of a record into a file, and in their place what is mapped of it."""
    places: dict[str, slice] = {}
    start = 0
    for name, array in record.items():
        size = view(array).nbytes
        places[name] = slice(start, start + size)
        start += -(-size // ALIGNED) * ALIGNED
    if not start:
        return
    try:
        write_new(path, _padded(record), mode=PRIVATE)
        with disk("read", path):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                mapped = memoryview(mmap.mmap(handle, start, access=mmap.ACCESS_READ))
            finally:
                os.close(handle)
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    for name, at in places.items():
        array = record[name]
        record[name] = Pieces(array.dtype, array.shape, [mapped[at]])


def _padded(record: ArrayRecord) -> Iterator[bytes]:
    for array in record.values():
        data = view(array)
        yield data.tobytes()
        yield bytes(-data.nbytes % ALIGNED)

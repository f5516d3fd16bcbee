"""What passes between the pool and one of its workers: messages, and a silo's state beside them.

Both ends are this program, joined by a pipe that nobody else can open. Large arrays travel after
the message as bare bytes, and those that the message before had already brought, as when one model
goes to many silos, do not travel again.
"""

from __future__ import annotations

import copy
from multiprocessing.connection import Connection

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

LARGE = 1 << 17
"""Bytes from which an array travels beside the message; below, one more write costs more than a
copy.
"""

NEW = -1
"""Place of an array that follows in the pipe; any other number is its place among those of the
message before.
"""

Hole = tuple[int, str, str]
"""Where a large array was taken out: 0 for the content or 1 for the state, its record's name and
its own.
"""


class PipeEnd:
    """One end of the pipe; the side that sends the same model again and again sets `remember` at
    both ends.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent: list[bytes] = []
        self._received: list[bytes] = []

    def send(self, message: Message, context: Context, *, remember: bool = False) -> None:
        """Send a message and the context that goes with it.

        Raises OSError when the other end is gone.
        """
        holes: list[Hole] = []
        large: list[bytes] = []
        message, context = copy.copy(message), copy.copy(context)
        if message.has_content():
            message.content = _emptied(0, message.content, holes, large)
        context.state = _emptied(1, context.state, holes, large)
        known = {id(data): place for place, data in enumerate(self._sent)}
        places = [known.get(id(data), NEW) for data in large]
        self._connection.send((message, context, holes, places, remember))
        for data, place in zip(large, places, strict=True):
            if place == NEW:
                self._connection.send_bytes(data)
        self._sent = large if remember else []

    def receive(self) -> tuple[Message, Context]:
        """Return the next message and its context.

        Raises EOFError or OSError when the other end is gone.
        """
        message, context, holes, places, remember = self._connection.recv()
        large = [
            self._connection.recv_bytes() if place == NEW else self._received[place]
            for place in places
        ]
        for (where, record, array), data in zip(holes, large, strict=True):
            records = message.content if where == 0 else context.state
            records.array_records[record][array].data = data
        self._received = large if remember else []
        return message, context


def _emptied(where: int, records: RecordDict, holes: list[Hole], large: list[bytes]) -> RecordDict:
    """Return the records without their large arrays' bytes, which are appended to `large`."""
    arrays = {name: record for name, record in records.items() if isinstance(record, ArrayRecord)}
    if not any(len(array.data) >= LARGE for record in arrays.values() for array in record.values()):
        return records
    emptied = {}
    for name, record in arrays.items():
        emptied[name] = ArrayRecord(dict(record))
        for key, array in record.items():
            if len(array.data) >= LARGE:
                holes.append((where, name, key))
                large.append(array.data)
                emptied[name][key] = Array(array.dtype, array.shape, array.stype, b"")
    return RecordDict({name: emptied.get(name, record) for name, record in records.items()})

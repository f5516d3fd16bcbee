"""What passes between the pool and one of its workers: batches of messages, each with its silo's
state.

Both ends are this program, joined by a pipe that nobody else can open. A batch is one object and,
after it, the large arrays as bare bytes. An array that several messages of a batch have, or that
the batch before had already brought, as when one model goes to many silos, travels once.

Each message arrives as if it had travelled alone: no two share a record that one of them could
change.
"""

from __future__ import annotations

import contextlib
import copy
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

LARGE = 1 << 17
"""Bytes from which an array travels after the batch; below, one more write costs more than a copy.
"""
ON_THE_WAY = 4 << 20
"""Bytes that may lie in the pipe, where the kernel allows so many: a worker then goes on with its
next silo while its answers wait for the other end.
"""

Job = tuple[Message, Context]
"""A message and the context that goes with it."""
Packed = tuple[tuple[str, type[Any], Any], ...]
"""Records by name: of arrays (name, dtype, shape, serialisation, place among the bytes) each."""


@dataclass(frozen=True)
class Call:
    """A function of this program, as `module:function`, to be called with a model and an argument."""

    function: str
    model: ArrayRecord
    argument: object


@dataclass
class Received:
    """What came: messages with their contexts, silos whose data may be let go, or a call; and what
    one end tells the other beside them.
    """

    jobs: list[Job]
    goodbye: list[str]
    call: Call | None
    beside: object


@dataclass
class _Batch:
    """What is pickled: the bare messages and contexts, their records, and where the bytes are."""

    jobs: list[tuple[Message, Packed | None, Context, Packed]]
    call: tuple[str, Any, object] | None
    data: list[bytes | int | None]
    """Of each array: its bytes, its place among those of the batch before, or None where its bytes
    follow.
    """
    remember: list[int]
    """The arrays that both ends keep until the next batch."""
    goodbye: list[str] = field(default_factory=list)
    beside: object = None


def widened(connection: Connection) -> None:
    """Let `ON_THE_WAY` bytes that are sent from this end wait for the other."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as pipe:
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_THE_WAY)


class PipeEnd:
    """One end of the pipe; the side that sends the same model again and again sets `remember`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent: list[bytes] = []
        self._received: list[bytes] = []

    def send(
        self,
        jobs: Sequence[Job],
        *,
        call: Call | None = None,
        remember: bool = False,
        goodbye: Iterable[str] = (),
        beside: object = None,
    ) -> None:
        """Send messages with their contexts, the names of silos whose data may be let go, or a call.

        What is `beside` them is pickled as it is.

        Raises OSError when the other end is gone.
        """
        packer = _Packer()
        # A worker reads all of a batch before it begins: neither end then waits for the other with
        # a full pipe in both directions.
        packed = [packer.job(message, context) for message, context in jobs]
        packed_call = None if call is None else packer.call(call)
        known = {id(data): place for place, data in enumerate(self._sent)}
        table: list[bytes | int | None] = []
        follows = []
        for data in packer.data:
            if id(data) in known:
                table.append(known[id(data)])
            elif len(data) >= LARGE:
                table.append(None)
                follows.append(data)
            else:
                table.append(data)
        # Models alone: a silo's state is another one each time.
        kept = sorted(packer.models) if remember else []
        self._connection.send(_Batch(packed, packed_call, table, kept, list(goodbye), beside))
        for data in follows:
            self._connection.send_bytes(data)
        # Held here, so that no other array can get the identity of one of them.
        self._sent = [packer.data[place] for place in kept]

    def receive(self) -> Received:
        """Return what comes next.

        Raises EOFError or OSError when the other end is gone.
        """
        batch: _Batch = self._connection.recv()
        data = []
        for entry in batch.data:
            if entry is None:
                data.append(self._connection.recv_bytes())
            else:
                data.append(self._received[entry] if isinstance(entry, int) else entry)
        jobs = [_unpacked_job(job, data) for job in batch.jobs]
        call = None if batch.call is None else _unpacked_call(batch.call, data)
        self._received = [data[place] for place in batch.remember]
        return Received(jobs, batch.goodbye, call, batch.beside)

    def send_value(self, value: object) -> None:
        """Send what a call returned; raises OSError when the other end is gone."""
        self._connection.send(value)

    def receive_value(self) -> object:
        """Return what a call returned; raises EOFError or OSError when the other end is gone."""
        return self._connection.recv()


class _Packer:
    """Takes messages apart; the arrays' bytes are collected in `data`, each once."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.models: set[int] = set()
        """Places of the arrays of messages, without those of states."""
        self._places: dict[int, int] = {}
        self._records: dict[int, tuple[Any, ...]] = {}

    def job(
        self, message: Message, context: Context
    ) -> tuple[Message, Packed | None, Context, Packed]:
        content = self._records_of(message.content) if message.has_content() else None
        self.models.update(_places(content or ()))
        state = self._records_of(context.state)
        bare, bare_context = copy.copy(message), copy.copy(context)
        if content is not None:
            bare.content = RecordDict()
        bare_context.state = RecordDict()
        return bare, content, bare_context, state

    def call(self, call: Call) -> tuple[str, Any, object]:
        model = self._record(call.model)
        self.models.update(place for *_, place in model)
        return call.function, model, call.argument

    def _records_of(self, records: RecordDict) -> Packed:
        return tuple((name, type(record), self._record(record)) for name, record in records.items())

    def _record(self, record: ArrayRecord | ConfigRecord | MetricRecord) -> Any:
        if not isinstance(record, ArrayRecord):
            return dict(record)
        # One model goes to many silos: taken apart once, and pickled once.
        if id(record) not in self._records:
            self._records[id(record)] = tuple(
                (key, array.dtype, tuple(array.shape), array.stype, self._place(array.data))
                for key, array in record.items()
            )
        return self._records[id(record)]

    def _place(self, data: bytes) -> int:
        if id(data) not in self._places:
            self._places[id(data)] = len(self.data)
            self.data.append(data)
        return self._places[id(data)]


def _places(packed: Packed) -> Iterator[int]:
    for _, kind, values in packed:
        if kind is ArrayRecord:
            yield from (place for *_, place in values)


def _unpacked_job(job: tuple[Message, Packed | None, Context, Packed], data: list[bytes]) -> Job:
    message, content, context, state = job
    if content is not None:
        message.content = _unpacked(content, data)
    context.state = _unpacked(state, data)
    return message, context


def _unpacked_call(call: tuple[str, Any, object], data: list[bytes]) -> Call:
    function, model, argument = call
    return Call(function, _record(ArrayRecord, model, data), argument)


def _unpacked(packed: Packed, data: list[bytes]) -> RecordDict:
    return RecordDict({name: _record(kind, values, data) for name, kind, values in packed})


def _record(kind: type[Any], values: Any, data: list[bytes]) -> Any:
    if kind is not ArrayRecord:
        # Lists are the only values that could be changed in place.
        return kind({key: list(v) if isinstance(v, list) else v for key, v in values.items()})
    # One by one: the constructor of Flower's record makes a second Array of each.
    record = ArrayRecord()
    for key, dtype, shape, stype, place in values:
        record[key] = Array(dtype, shape, stype, data[place])
    return record

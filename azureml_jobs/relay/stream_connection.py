"""WebSocket connections of which little waits, whatever the other side sends and does not read.

The library queues every frame until somebody asks for it, and answers every ping at once, whatever
waits to be sent. Of frames of some bytes one read holds tens of thousands, and the answers that
nobody reads pile up. So whoever lets them is ended, and at the relay the bytes of a stream go on to
the other connection as they arrive, without a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

FRAME_BYTES: Final = 128 * 1024
"""Of one frame at most, in either direction."""
MOST_UNPROVEN: Final = 64 * 1024
"""Bytes that somebody may say before they have proven who they are: a request and a proof."""
MOST_UNSENT: Final = 1024 * 1024
"""Bytes that wait to be sent on a connection: more than its writers let wait, who wait themselves."""

Meter = Callable[[int], float]
"""Is told of so many bytes, and returns for how many seconds nothing more may be carried."""


def free(count: int) -> float:
    """Carry anything at once."""
    return 0.0


class BoundedConnection(Connection):
    """A connection that ends where its other side asks for answers and does not read them."""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MOST_UNSENT:
            self.transport.abort()


class DialledConnection(BoundedConnection, ClientConnection):
    """The end that dials."""


class StreamConnection(BoundedConnection, ServerConnection):
    """The relay's end. Of a stream, frames of bytes go to another connection once there is one, and
    until then nothing more is read; `recv` returns texts alone.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._heard = 0  # bytes, before it was let in
        self._let_in = False
        self._is_stream = False
        self._come: list[bytes] = []  # and not passed on yet
        self._in_bytes = False  # in the middle of a message of several frames
        self._sink: StreamConnection | None = None
        self._source: StreamConnection | None = None
        self._meter: Meter = free
        self._waiting: asyncio.TimerHandle | None = None

    def let_in(self, *, stream: bool) -> None:
        """Hear more of it from now on: frames of bytes, where it is a stream's."""
        self._let_in = True
        self._is_stream = stream

    def pass_to(self, sink: StreamConnection, meter: Meter) -> None:
        """Send the bytes that have come, and that come from now on, over another connection."""
        self._sink = sink
        self._meter = meter
        sink._source = self
        if self._come:
            self._pass_on()
        self._go_on()

    def carry(self, frame: bytes) -> None:
        """Send a frame of a stream, unless this connection ends."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_binary(frame)
            self.send_data()

    def process_event(self, event: object) -> None:
        """See `Connection`: keep the bytes of a stream from its queue."""
        if self._is_stream and isinstance(event, Frame) and self._is_of_bytes(event):
            self._come.append(bytes(event.data))
        else:
            super().process_event(event)  # type: ignore[arg-type]  # a request, or a frame

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._let_in:
            self._heard += len(data)
            if self._heard > MOST_UNPROVEN:
                self.transport.abort()
                return
        super().data_received(data)
        if self._come:
            self._pass_on()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: who sends to a reader that stands still waits, too."""
        super().pause_writing()
        if self._source is not None:
            self._source.transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self._source is not None:
            self._source._go_on()

    def _is_of_bytes(self, frame: Frame) -> bool:
        if frame.opcode is Opcode.BINARY or (frame.opcode is Opcode.CONT and self._in_bytes):
            self._in_bytes = not frame.fin
            return True
        return False

    def _pass_on(self) -> None:
        if self._sink is None:
            # One read's worth waits, in one piece, and nothing more is read.
            self.transport.pause_reading()
            self._come[:] = [b"".join(self._come)]
            return
        frames = joined(self._come)
        self._come.clear()
        for frame in frames:
            self._sink.carry(frame)
        pause = self._meter(sum(len(frame) for frame in frames))
        if pause > 0:
            self.transport.pause_reading()
            self._waiting = self.loop.call_later(pause, self._over)

    def _over(self) -> None:
        self._waiting = None
        self._go_on()

    def _go_on(self) -> None:
        """Read again, unless the meter or a reader that stands still forbids it."""
        if self._waiting is None and self._sink is not None and not self._sink.paused:
            self.transport.resume_reading()


def joined(pieces: list[bytes]) -> list[bytes]:
    """Return the same bytes in frames of `FRAME_BYTES` at most; small ones become one."""
    frames = []
    group: list[bytes] = []
    size = 0
    for piece in pieces:
        for start in range(0, len(piece), FRAME_BYTES):
            part = piece[start : start + FRAME_BYTES]
            if size + len(part) > FRAME_BYTES:
                frames.append(b"".join(group))
                group = []
                size = 0
            group.append(part)
            size += len(part)
    if group:
        frames.append(b"".join(group))
    return frames

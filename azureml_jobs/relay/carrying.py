"""Carries bytes between two connections, frame by frame, and never holds more than a few of them.

Who reads slowly is waited for: a frame is taken from one side when the other has room for it, and a
side whose frames wait is not read any more, so that its own machine waits too.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from websockets.exceptions import ConnectionClosed

from azureml_jobs.relay.connection_proofs import not_of_the_protocol
from azureml_jobs.relay.stream_connection import FRAME_BYTES, Meter, StreamConnection, free

WAITING_FRAMES: Final = 4
"""Frames of one connection that have come and wait."""
WRITTEN_BYTES: Final = 256 * 1024
"""What may wait to be sent on one connection; a frame more, where it was written before."""
ENDING_SECONDS: Final = 2.0
"""For the other side's part of a goodbye."""


class Frames(Protocol):
    """A WebSocket connection, as its client and its server see it."""

    transport: asyncio.Transport

    async def recv(self) -> str | bytes:
        """Return the next frame; raises ConnectionClosed."""

    async def send(self, message: bytes) -> None:
        """Send a frame; raises ConnectionClosed."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye."""


async def carry_frames(one: StreamConnection, other: StreamConnection, meter: Meter = free) -> None:
    """Carry bytes between two connections until one of them ends, then end the other; the first
    is the caller's to end.

    Raises WireError MDW-690 for a text frame: a stream holds bytes alone.
    """
    one.pass_to(other, meter)
    other.pass_to(one, meter)
    try:
        await _until_one_ends(_no_text(one), _no_text(other))
    finally:
        await _close(other)


async def carry_stream(frames: Frames, reader: StreamReader, writer: StreamWriter) -> None:
    """Carry bytes between a connection and a socket of this machine until one of them ends.

    Raises WireError MDW-690 for a text frame.
    """
    try:
        await _until_one_ends(_outward(reader, frames), _inward(frames, writer))
    finally:
        writer.close()
        await _close(frames)
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _until_one_ends(*ways: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        # That a connection has ended is how each stream ends.
        usual = (ConnectionClosed, OSError, asyncio.CancelledError)
        if isinstance(error, BaseException) and not isinstance(error, usual):
            raise error


async def _close(*connections: Frames) -> None:
    """Say goodbye to each, and wait for none for long."""
    await asyncio.gather(*(closed(one) for one in connections), return_exceptions=True)


async def closed(connection: Frames) -> None:
    """Say goodbye, and end the connection whatever the other side says, and when this is cancelled."""
    try:
        with contextlib.suppress(TimeoutError, ConnectionClosed, OSError):
            async with asyncio.timeout(ENDING_SECONDS):
                await connection.close()
    finally:
        connection.transport.abort()


async def _no_text(connection: Frames) -> None:
    """Wait until a connection ends; its bytes are passed on beside this."""
    checked_bytes(await connection.recv())


async def _outward(reader: StreamReader, sink: Frames) -> None:
    while data := await reader.read(FRAME_BYTES):
        await sink.send(data)


async def _inward(source: Frames, writer: StreamWriter) -> None:
    while True:
        writer.write(checked_bytes(await source.recv()))
        await writer.drain()


def checked_bytes(frame: str | bytes) -> bytes:
    """Return a frame of a stream; raises WireError MDW-690 for a text."""
    if isinstance(frame, str):
        raise not_of_the_protocol("a text among the bytes of a stream")
    return frame

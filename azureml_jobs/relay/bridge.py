"""The two ends beside gRPC, which takes no connection that others have made: each is a thread with
a loop of its own, and gRPC speaks to it over a socket of this machine.

    SiloEnd      gRPC dials a socket in a private folder; each connection becomes one by the relay
    ServerEnd    each silo at the relay becomes a connection to the orchestrator's own port
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from azureml_jobs.relay.carrying import carry_stream
from azureml_jobs.relay.meeting import Caller, Dialing, Listening
from azureml_jobs.relay.outward import quiet_websockets
from azureml_jobs.relay.stream_connection import FRAME_BYTES
from conf.errors import MeadowError

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 15.0
"""Seconds between two tries of an orchestrator to listen; drawn, so that many do not come at once."""
STREAMS_PER_KEY: Final = 8
"""That the orchestrator itself takes of one silo at once, whatever a relay lets through."""
STREAMS: Final = 2048
LONGEST_SOCKET: Final = 100
"""Bytes of a socket's path: systems allow 104 or 108."""
SAID_AGAIN_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0

Peer = tuple[str, int]


class LoopThread:
    """A thread that runs one coroutine until it is stopped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin; returns when the loop runs."""
        runs = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(work, runs), name=self._name, daemon=True
        )
        self._thread.start()
        runs.wait()

    def stop(self) -> None:
        """End what runs; returns when it has, or after a few seconds."""
        # The loop may have ended by itself.
        with contextlib.suppress(RuntimeError):
            self._stop()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]], runs: threading.Event) -> None:
        async def live() -> None:
            quiet_websockets()
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(work())
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
            runs.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        try:
            # What it has begun beside the work is cancelled and waited for, too.
            asyncio.run(live())
        except Exception:
            log.exception("the way by the relay has ended")


class _Said:
    """A line of the log for each different trouble, and not for each try."""

    def __init__(self) -> None:
        self._last = ""
        self._at = 0.0

    def trouble(self, error: MeadowError, now: float) -> None:
        if error.code != self._last or now - self._at > SAID_AGAIN_SECONDS:
            self._last = error.code
            self._at = now
            log.warning("%s", error)

    def well(self) -> None:
        self._last = ""


class SiloEnd:
    """A socket of this machine behind which the orchestrator is; `target` is its name for gRPC."""

    def __init__(self) -> None:
        self._thread = LoopThread("relay")
        self._folder = Path(tempfile.mkdtemp(prefix="meadow-relay-"))
        self._said = _Said()
        self.trouble: MeadowError | None = None
        """Why the last try failed; None where it did not."""
        self._socket, self.target = _local_socket(self._folder)

    def start(self, way: Dialing) -> None:
        """Take connections from now on, each by this way."""
        self._thread.start(lambda: self._serve(way))

    def stop(self) -> None:
        """End all of them, and remove the socket."""
        self._thread.stop()
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _serve(self, way: Dialing) -> None:
        carrying: set[asyncio.Task[None]] = set()

        def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._carry(way, reader, writer))
            carrying.add(task)
            task.add_done_callback(carrying.discard)

        is_unix = self._socket.family == socket.AF_UNIX
        start = asyncio.start_unix_server if is_unix else asyncio.start_server
        async with await start(carry, sock=self._socket, limit=FRAME_BYTES) as server:
            await server.serve_forever()

    async def _carry(
        self, way: Dialing, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            frames = await way.dial()
            self.trouble = None
            self._said.well()
            await carry_stream(frames, reader, writer)
        except MeadowError as error:
            self.trouble = error
            self._said.trouble(error, loop.time())
        except Exception as error:
            log.warning("a connection by the relay failed: %r", error)
        finally:
            writer.close()


class ServerEnd:
    """Brings the silos at a relay to the orchestrator's own port."""

    def __init__(
        self,
        way: Listening,
        port: Callable[[], str],
        comes: Callable[[Peer, str], None] = lambda peer, key: None,
    ) -> None:
        """`port` says where the orchestrator listens (host:port); `comes` hears of each connection
        to it: its own address, and the name of the silo's key.
        """
        self._way = way
        self._port = port
        self._comes = comes
        self._thread = LoopThread("relay")
        self._streams: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said = _Said()
        self._pause = FIRST_PAUSE
        self.listens = threading.Event()
        """Whether silos can come by the relay now."""

    def start(self) -> None:
        """Begin to listen, and listen again whenever the connection is lost."""
        self._thread.start(self._keep)

    def stop(self) -> None:
        """End all connections."""
        self._thread.stop()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._way.listen(self._take, self._hear)
            except MeadowError as error:
                self._said.trouble(error, loop.time())
            except Exception as error:
                log.warning("the connection to the relay failed: %r", error)
            finally:
                self.listens.clear()
            await asyncio.sleep(random.uniform(self._pause / 2, self._pause))
            self._pause = min(LONGEST_PAUSE, self._pause * 2)

    def _hear(self) -> None:
        self._pause = FIRST_PAUSE
        self._said.well()
        self.listens.set()
        log.info("silos can come by the relay")

    async def _take(self, caller: Caller) -> None:
        # A way that tells no key tells nothing of who has how many.
        full = caller.key and self._streams[caller.key] >= STREAMS_PER_KEY
        if full or self._streams.total() >= STREAMS:
            await caller.refuse("too many connections at once")
            return
        self._streams[caller.key] += 1
        task = asyncio.create_task(self._carry(caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, caller: Caller) -> None:
        writer = None
        try:
            # The own port gives a handshake a few seconds: the way to the silo stands before.
            frames = await caller.fetch()
            host, _, port = dialled(self._port()).rpartition(":")
            reader, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), limit=FRAME_BYTES
            )
            own = writer.get_extra_info("sockname")
            self._comes((str(own[0]), int(own[1])), caller.key)
            await carry_stream(frames, reader, writer)
        except MeadowError as error:
            self._said.trouble(error, asyncio.get_running_loop().time())
        except Exception as error:
            log.warning("a connection by the relay failed: %r", error)
        finally:
            if writer is not None:
                writer.close()
            self._streams[caller.key] -= 1
            if self._streams[caller.key] <= 0:
                del self._streams[caller.key]


def dialled(address: str) -> str:
    """Return where this machine dials a port that listens at host:port."""
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{host}:{port}"


def _local_socket(folder: Path) -> tuple[socket.socket, str]:
    """Return a socket that this user alone may dial, and its name for gRPC.

    Where the folder's path is too long for one, it is a port of loopback, which other users of the
    machine can dial: what is inside asks them for a key all the same.
    """
    path = folder / "server"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(str(path))
        made.listen(16)
        made.setblocking(False)
        return made, f"unix:{path}"
    made = socket.create_server(("127.0.0.1", 0), backlog=16)
    made.setblocking(False)
    return made, f"127.0.0.1:{made.getsockname()[1]}"

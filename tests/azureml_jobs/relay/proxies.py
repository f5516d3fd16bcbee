"""Two proxies in a thread: one that opens connections for who knows a password, one that inspects what it opens.

Both speak CONNECT alone. The inspecting one ends the outer TLS with a certificate of its own CA, and
records what it reads inside.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from tests.azureml_jobs.relay.public_ca import PublicCa

USER = "hospital"
PASSWORD = "s3cret: with @/%, marks"


class Proxy:
    """A proxy at 127.0.0.1; `seen` are the hosts that were asked for, `read` what an inspecting one reads."""

    def __init__(
        self,
        credentials: tuple[str, str] | None = (USER, PASSWORD),
        inspect: PublicCa | None = None,
        trusted: Path | None = None,
        to: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._credentials = credentials
        self._inspect = inspect
        self._trusted = trusted
        self._to = to
        self._host = host
        self.seen: list[str] = []
        self.refused = 0
        self.read = bytearray()
        self.tell: Callable[[bytes], object] = lambda data: None
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Proxy:
        ready = threading.Event()

        async def live() -> None:
            self._loop = asyncio.get_running_loop()
            self._stopped = asyncio.Event()
            tasks: set[asyncio.Task[None]] = set()

            def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.create_task(self._serve(reader, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            server = await asyncio.start_server(begin, self._host, self.port)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._stopped.wait()
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        assert self._stopped is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            words, *lines = head.split("\r\n")
            told = {
                line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines
            }
            if not self._lets_in(told.get("proxy-authorization", "")):
                self.refused += 1
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            target = words.split()[1]
            self.seen.append(target)
            host, _, port = target.rpartition(":")
            upstream = await self._upstream(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            if self._inspect is not None:
                pem, key = self._inspect.certify("inspected", [host])
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(pem, key)
                await writer.start_tls(context)
            await self._pass(reader, writer, *upstream)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in (writer, upstream[1] if upstream is not None else None):
                if end is not None:
                    end.close()
                    with contextlib.suppress(Exception):
                        await end.wait_closed()

    def _lets_in(self, told: str) -> bool:
        if self._credentials is None:
            return True
        user, password = self._credentials
        wanted = base64.b64encode(f"{user}:{password}".encode()).decode()
        return told == f"Basic {wanted}"

    async def _upstream(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        there, _, number = self._to.rpartition(":") if self._to else (host, "", str(port))
        if self._inspect is None:
            return await asyncio.open_connection(there, int(number))
        context = ssl.create_default_context(cafile=str(self._trusted))
        return await asyncio.open_connection(there, int(number), ssl=context, server_hostname=host)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: asyncio.StreamReader,
        down: asyncio.StreamWriter,
    ) -> None:
        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if self._inspect is not None:
                    self.read += data[: max(0, 100_000 - len(self.read))]
                    self.tell(data)
                sink.write(data)
                await sink.drain()

        ways = [asyncio.ensure_future(copy(reader, down)), asyncio.ensure_future(copy(up, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

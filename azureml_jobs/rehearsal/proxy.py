"""A proxy that connects a fixed list of host names and refuses the rest: nothing goes out."""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import threading
from collections.abc import Sequence

from azureml_jobs.rehearsal.request_log import RequestLog

CHUNK = 1 << 16


class Proxy:
    """Connects `CONNECT host:443` to a local port where `host` matches one of the patterns.

    `login`, as `user:password`, is what a client has to say first; empty: nobody is asked.
    """

    def __init__(
        self, patterns: Sequence[str], port: int, request_log: RequestLog, login: str = ""
    ) -> None:
        self._patterns = patterns
        self._login = base64.b64encode(login.encode()).decode() if login else ""
        self._target_port = port
        self._request_log = request_log
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen on a free port of 127.0.0.1; afterwards `port` holds it."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Close the port and every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", 0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        # `stop` ended the loop; it runs once more, so that open connections are closed properly.
        server.close()
        connections = asyncio.all_tasks(self._loop)
        for task in connections:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*connections, return_exceptions=True))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.split(b"\r\n")[0].decode("latin-1").split()
            if self._login and f"Basic {self._login}" not in head.decode("latin-1"):
                writer.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="rehearsal"\r\nContent-Length: 0\r\n\r\n'
                )
                return
            host, _, port = target.rpartition(":")
            if method != "CONNECT" or port != "443" or not self._is_listed(host):
                self._request_log.outbound.append(f"{method} {target}")
                writer.write(
                    b"HTTP/1.1 403 Forbidden: outside the rehearsal\r\nContent-Length: 0\r\n\r\n"
                )
                return
            target_reader, target_writer = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))
        except (
            OSError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
            ValueError,
        ):
            return
        finally:
            writer.close()

    def _is_listed(self, host: str) -> bool:
        return any(fnmatch.fnmatchcase(host.lower(), pattern) for pattern in self._patterns)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()

"""The networks of a cloud's jobs: nobody comes in, and out goes 443 alone, through the proxy.

Each job's processes run in a network namespace (`isolated.py`), where this machine lets an ordinary
user make one; else they run in this machine's network, and `available` says that nothing of it is
rehearsed. What is open besides is declared: `peer` stands for a peering of two networks and a rule
for one port.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from azureml_jobs.rehearsal.isolated import inward

PROGRAM: Final = Path(__file__).with_name("isolated.py")
TRY_SECONDS: Final = 20.0


@dataclass
class Networks:
    """Gives each job a network; safe to use from several threads.

    `_ports` are this machine's ports that each node reaches under the same number: the proxy's, and
    that of the node's own identity endpoint.
    """

    available: bool = field(default_factory=lambda: can_isolate())
    _folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="meadow-net-")))
    _ports: dict[int, str] = field(default_factory=dict)
    _allowed: list[tuple[str, int, int]] = field(default_factory=list)
    _hosts: dict[str, str] = field(default_factory=dict)
    _peered: list[tuple[str, str, int]] = field(default_factory=list)
    _dialled: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def start(self, *ports: int) -> None:
        """Let every job reach these ports of this machine from now on."""
        if not self.available:
            return
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(loop,), name="networks", daemon=True
        )
        self._thread.start()
        self._ports = {port: self._opened(port) for port in ports}

    def _opened(self, port: int) -> str:
        """Return the socket that leads to a port of this machine."""
        assert self._loop is not None, "the networks are not started"
        path = str(self._folder / str(port))
        if not Path(path).exists():
            server = asyncio.start_unix_server(inward(port), path)
            self._servers.append(asyncio.run_coroutine_threadsafe(server, self._loop).result())
        return path

    def stop(self) -> None:
        """Close every way out."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def peer(self, source: str, target: str, port: int) -> None:
        """Let the jobs of one compute reach a port of another one's, by their ARM ids."""
        self._peered.append((source.lower(), target.lower(), port))

    def allow(self, compute: str, port: int, out: int, host: str = "") -> None:
        """Let the jobs of a compute reach a port of this machine, `out`, under another number.

        `host` is the name of whoever is there, for a port that is dialled by a name.
        """
        if not self.available:
            return
        self._opened(out)
        self._allowed.append((compute.lower(), port, out))
        if host:
            self._hosts[host] = "127.0.0.9"

    @property
    def next_address(self) -> str:
        """Return the address of the next job that somebody may dial."""
        return f"10.1.0.{4 + self._dialled % 200}"

    def around(self, compute: str, read_only: Sequence[Path] = ()) -> list[str]:
        """Return what a job's command begins with, so that it runs in a network of its own.

        `read_only` are paths that it can't write.
        """
        if not self.available:
            return []
        out = [port for source, _, port in self._peered if source == compute.lower()]
        into = {port for _, target, port in self._peered if target == compute.lower()}
        # That of a network which nobody dials. Each job that is dialled has an address of its own.
        address = "10.1.0.1"
        if into:
            with self._lock:
                address = self.next_address
                self._dialled += 1
        # A machine that only dials out has an address and a route too; what it sends is dropped.
        outward = bool(into)
        imports: list[tuple[int, str]] = list(self._ports.items())
        for source, port, out_port in self._allowed:
            if source == compute.lower():
                imports.append((port, self._opened(out_port)))
                outward = outward or not out
        imports += [(port, str(self._folder)) for port in sorted(set(out))]
        exports = [(port, str(self._folder / f"{address}-{port}")) for port in sorted(into)]
        settings: dict[str, Any] = {"imports": imports, "exports": exports, "hosts": self._hosts}
        settings |= {"address": address, "outward": outward, "read_only": list(map(str, read_only))}
        return [sys.executable, "-I", str(PROGRAM), json.dumps(settings)]

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        # `stop` ended the loop; it runs once more, so that open connections are closed properly.
        for server in self._servers:
            server.close()
        connections = asyncio.all_tasks(loop)
        for task in connections:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*connections, return_exceptions=True))
        loop.close()


def can_isolate() -> bool:
    """Return whether this user may make a network namespace on this machine."""
    try:
        tried = subprocess.run(
            [sys.executable, "-I", str(PROGRAM)], capture_output=True, timeout=TRY_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0

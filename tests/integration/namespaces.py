"""Network namespaces for tests: machines that reach one address on one port, and nothing else.

    one = Site("silo-1", ports=(443,))      # its only way out is TCP to these ports of the middle

The middle is a namespace of its own, where a relay, proxies and filters listen; it forwards nothing,
so that no site reaches another. A rule of the routing table lets a port out: no packet filter is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MIDDLE = "10.87.{number}.1"


def possible() -> bool:
    """Whether this user may make namespaces here."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"mdw-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made.returncode == 0


@dataclass
class Network:
    """The namespaces of one test, removed at its end."""

    prefix: str = field(default_factory=lambda: f"mdw{os.getpid() % 10000}")
    sites: list[str] = field(default_factory=list)

    @property
    def middle(self) -> str:
        return f"{self.prefix}-middle"

    def make(self) -> None:
        _ip("netns", "add", self.middle)
        self._inside(self.middle, "link", "set", "lo", "up")

    def site(self, name: str, ports: Sequence[int], hosts: str) -> str:
        """Add a site that reaches the middle on these ports alone; return the middle's address for it."""
        full = f"{self.prefix}-{name}"
        number = len(self.sites) + 1
        self.sites.append(full)
        _ip("netns", "add", full)
        self._inside(full, "link", "set", "lo", "up")
        one, other = f"v{number}a", f"v{number}b"
        _ip("-n", full, "link", "add", one, "type", "veth", "peer", other, "netns", self.middle)
        middle = f"10.87.{number}.1"
        own = f"10.87.{number}.2"
        # No network of its own: the address alone, so that no route appears by itself.
        self._inside(full, "address", "add", f"{own}/32", "dev", one)
        self._inside(full, "link", "set", one, "up")
        self._inside(self.middle, "address", "add", f"{middle}/32", "dev", other)
        self._inside(self.middle, "link", "set", other, "up")
        self._inside(self.middle, "route", "add", f"{own}/32", "dev", other)
        self._inside(full, "route", "add", f"{middle}/32", "dev", one, "table", "100")
        for port in ports:
            self._inside(full, "rule", "add", "ipproto", "tcp", "dport", str(port), "lookup", "100")
        folder = Path("/etc/netns") / full
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{middle} {hosts}\n")
        return middle

    def command(self, name: str, *command: str) -> list[str]:
        """Return a command that runs in a site, or in the middle."""
        return ["ip", "netns", "exec", f"{self.prefix}-{name}", *command]

    def _inside(self, name: str, *words: str) -> None:
        _ip("-n", name, *words)

    def remove(self) -> None:
        for name in (*self.sites, self.middle):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


@contextmanager
def network() -> Iterator[Network]:
    made = Network()
    made.make()
    try:
        yield made
    finally:
        made.remove()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"

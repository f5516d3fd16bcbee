"""Links of network namespaces: each silo at the far end of its own, which can be cut or made slow.

needs root, `ip` and `tc` with a token bucket; `available()` says whether this machine has them
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

QUICK: Final = 100_000_000.0
"""Bits a second of a link that nobody has made slow."""


def run(command: str) -> None:
    """Run a command of `ip` or `tc`; raises CalledProcessError with what it said."""
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


def why_none(name: str) -> str:
    """Return why there can be no links here; empty where there can be."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        return "root, ip and tc are needed"
    links = Links(f"{name}p", ["probe"])
    try:
        links.open()
        links.rate("probe", 1_000_000)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()[:200]
    finally:
        links.close()
    return ""


class Links:
    """A bridge of this namespace, and a namespace for each silo behind a port of it."""

    def __init__(self, name: str, silos: Sequence[str]) -> None:
        """`name` is at most 8 letters: interfaces have 15."""
        self._name = name
        self._network = f"10.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        self._silos = list(silos)
        self.host = f"{self._network}.1"
        self._bridge = f"{name}b"

    def open(self) -> None:
        """Make them; raises CalledProcessError."""
        run(f"ip link add {self._bridge} type bridge")
        run(f"ip addr add {self.host}/24 dev {self._bridge}")
        run(f"ip link set {self._bridge} up")
        for index, silo in enumerate(self._silos):
            space, near = self._space(silo), self._near(silo)
            run(f"ip netns add {space}")
            run(f"ip link add {near} type veth peer name far netns {space}")
            run(f"ip link set {near} master {self._bridge} up")
            run(f"ip -n {space} addr add {self._network}.{10 + index}/24 dev far")
            run(f"ip -n {space} link set far up")
            run(f"ip -n {space} link set lo up")
            self.rate(silo, QUICK)

    def cut(self, silo: str) -> None:
        """Drop everything in silence."""
        run(f"ip link set {self._near(silo)} nomaster")

    def mend(self, silo: str) -> None:
        """Let everything through again."""
        run(f"ip link set {self._near(silo)} master {self._bridge}")

    def rate(self, silo: str, bits: float) -> None:
        """Let so many bits a second through, each way."""
        bucket = f"root tbf rate {int(bits)}bit burst 32kb limit 128kb"
        run(f"tc qdisc replace dev {self._near(silo)} {bucket}")
        run(f"ip netns exec {self._space(silo)} tc qdisc replace dev far {bucket}")

    def there(self, silo: str) -> list[str]:
        """Return the words before a command that runs at the silo's end."""
        return ["ip", "netns", "exec", self._space(silo)]

    def close(self) -> None:
        """Remove all of it, as far as it is there."""
        commands = [f"ip link del {self._near(silo)}" for silo in self._silos]
        commands += [f"ip netns del {self._space(silo)}" for silo in self._silos]
        for command in [*commands, f"ip link del {self._bridge}"]:
            with suppress(subprocess.CalledProcessError):
                run(command)

    def left(self) -> list[str]:
        """Return what is left of it after `close`."""
        spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=False).stdout
        links = subprocess.run(
            ["ip", "-br", "link"], capture_output=True, text=True, check=False
        ).stdout
        own = (self._bridge, *(self._near(silo) for silo in self._silos))
        found = [line.split("@")[0].split()[0] for line in links.splitlines()]
        named = [space for space in spaces.split() if space.startswith(f"{self._name}-")]
        return named + [name for name in found if name in own]

    def _space(self, silo: str) -> str:
        return f"{self._name}-{silo}"

    def _near(self, silo: str) -> str:
        return f"{self._name}{self._silos.index(silo)}"

"""Reads and writes locks: one exact version a package, and the hashes of every file of it.

A lock holds versions, markers and hashes, and never an address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIRST: Final = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==([^\s;]+)\s*(?:;\s*(.+))?")
_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return the name as indexes compare it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()

    def __str__(self) -> str:
        first = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n".join([first, *(f"    --hash={one}" for one in self.hashes)])


def pins_of(text: str) -> list[Pin]:
    """Return the packages of a lock, or of a list of versions.

    Raises ValueError for a line that is neither.
    """
    found = []
    whole = text.replace("\\\n", " ")
    for line in whole.splitlines():
        line = line.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        first, *rest = line.split(" --hash=", 1)
        match = _FIRST.fullmatch(first.strip())
        if match is None:
            raise ValueError(f"no exact version: {line[:100]}")
        hashes = tuple(_HASH.findall(line)) if rest else ()
        found.append(Pin(match[1], match[2], match[3] or "", hashes))
    return found


def read(path: Path) -> list[Pin]:
    """Return the packages of a file."""
    return pins_of(path.read_text())


def text_of(pins: list[Pin], heading: str = "") -> str:
    """Return a lock's text."""
    lines = [f"# {line}" for line in heading.splitlines()]
    return "\n".join([*lines, *map(str, pins)]) + "\n"

"""The digest of the program itself: a silo takes part only in a run of the very code that its own job was sent with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

PACKAGES: Final = ("azureml_jobs", "client", "conf", "server", "strategies")
"""The packages that count: their Python files, and the YAML files of conf that are no federation, experiment or run."""
PRIVATE: Final = ("conf/federation/", "conf/experiment/")
"""A federation's own file and a user's experiments differ from place to place and change no code."""


def app_hash(root: Path | None = None) -> str:
    """Return the SHA-256, in hex, of `app_listing`; read once per process for the installed tree."""
    return _installed() if root is None else hashlib.sha256(app_listing(root)).hexdigest()


def app_listing(root: Path | None = None) -> bytes:
    """Return a line for every file that counts, sorted: its SHA-256 and its path from the root; line ends are LF."""
    base = root or Path(__file__).resolve().parent.parent
    files = sorted(
        file.relative_to(base).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", *(("*.yaml",) if package == "conf" else ()))
        for file in (base / package).rglob(pattern)
    )
    counted = [name for name in files if not name.startswith(PRIVATE)]
    return "".join(f"{_digest(base / name)}  {name}\n" for name in counted).encode()


@cache
def _installed() -> str:
    return hashlib.sha256(app_listing()).hexdigest()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()

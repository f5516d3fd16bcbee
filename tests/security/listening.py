"""At which addresses a command, and all that it starts, listens while it runs."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import AnyStr, Final

import psutil

MARK: Final = "MEADOW_TEST_COMMAND"
"""Environment variable of a command that all that it starts inherits, detached processes too."""
LOOPBACK: Final = ("127.", "::1", "::ffff:127.")
OWN_NETWORK: Final = os.readlink("/proc/self/ns/net") if os.path.exists("/proc/self/ns/net") else ""


def marked() -> dict[str, str]:
    """Return the variable by which a command that is started with it is found again."""
    return {MARK: uuid.uuid4().hex}


def beyond(addresses: Iterable[str]) -> list[str]:
    """Return the addresses that others than this machine reach."""
    return sorted(one for one in addresses if not one.startswith(LOOPBACK))


def followed(
    command: subprocess.Popen[AnyStr], mark: str, seconds: float = 600.0
) -> tuple[AnyStr, AnyStr, set[str]]:
    """Wait for a command's end; return what it said, and where it listened meanwhile.

    Raises TimeoutExpired after so many seconds.
    """
    found: set[str] = set()
    deadline = time.monotonic() + seconds
    while True:
        found |= listeners(mark)
        try:
            said, errors = command.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
            continue
        return said, errors, found


def listeners(mark: str) -> set[str]:
    """Return the addresses at which a command and all that it started listen.

    What is in a network of its own, as a rehearsal's jobs are, is not of this machine's.
    """
    found = set()
    for process in _family(mark):
        try:
            if os.readlink(f"/proc/{process.pid}/ns/net") != OWN_NETWORK:
                continue
            connections = process.net_connections("tcp")
        except (psutil.Error, OSError):
            continue
        found |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return found


def _family(mark: str) -> set[psutil.Process]:
    """Return the processes with the mark, and all below them: some are given other variables."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    return found

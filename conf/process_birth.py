"""What tells a process from every other that ever had its number, and whether it has certainly
ended: by the kernel's ticks, which no clock moves.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE: Final = "/proc/self/ns/pid"
_LONGEST_NUMBER: Final = 10
STATE_FIELD: Final = 0
START_FIELD: Final = 19
"""Behind the command's name in /proc/PID/stat, which is in brackets and may hold anything (proc(5):
the fields 3 and 22).
"""


def boot() -> str | None:
    """Return what names this boot of this machine; None where the system does not say."""
    try:
        return BOOT_ID.read_text().strip() or None
    except OSError:
        return None


def birth(pid: int) -> tuple[str, bool] | None:
    """Return the ticks at which a process was started, and whether it runs (a zombie does not).

    None where there is no such process, or none that this user may see.
    """
    fields = _stat(pid)
    # X is a process on its way out.
    return None if fields is None else (fields[START_FIELD], fields[STATE_FIELD] not in ("Z", "X"))


def _stat(pid: int) -> list[str] | None:
    try:
        said = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return said.rpartition(")")[2].split()


def this_process() -> str:
    """Return the name of this process for `has_ended`; empty where the system gives it none.

    Boot, namespace of process numbers, number, ticks: the numbers of another container mean
    nothing here.
    """
    return _named(os.getpid())


@cache
def _named(pid: int) -> str:
    there, born = _machine(), birth(pid)
    return "" if there is None or born is None else f"{there}:{pid}:{born[0]}"


def has_ended(name: str) -> bool:
    """Return whether a process that `this_process` named has certainly ended.

    False where that can't be known: it is of another machine, boot or container, or of a user whose
    processes are hidden from this one.
    """
    found_here = _here(name)
    if found_here is None:
        return False
    pid, ticks = found_here
    try:
        # Asked first: /proc may hide other users' processes, this call does not.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    found = birth(pid)
    return found is not None and (found[0] != ticks or not found[1])


def is_stopped(name: str) -> bool:
    """Return whether a process that `this_process` named is stopped: by SIGSTOP, Ctrl-Z or a
    debugger. False where that can't be known.
    """
    found_here = _here(name)
    if found_here is None:
        return False
    pid, ticks = found_here
    found = _stat(pid)
    return found is not None and found[START_FIELD] == ticks and found[STATE_FIELD] in ("T", "t")


def _here(name: str) -> tuple[int, str] | None:
    """Return number and ticks of a named process of this machine, boot and container; else None."""
    there, _, ticks = name.rpartition(":")
    there, _, number = there.rpartition(":")
    is_number = number.isascii() and number.isdecimal() and len(number) <= _LONGEST_NUMBER
    if not there or there != _machine() or not is_number:
        return None
    return int(number), ticks


def _machine() -> str | None:
    started = boot()
    try:
        space = os.readlink(_PID_NAMESPACE)
    except OSError:
        return None
    return None if started is None else f"{started}:{space.strip('pid:[]')}"

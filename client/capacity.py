"""What this machine has: its cores, and the memory that this process may take of it."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import resource

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
"""Where Linux says in which control groups a process is."""
UNITS: Final = {"k": 2**10, "m": 2**20, "g": 2**30}


def cores() -> int:
    """Return how many cores this process may run on."""
    if sys.platform.startswith("linux"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return how many bytes this process may take: of the machine's memory, its control groups'
    limits and its own resource limits the least.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            found.append(soft)
    for file in _limit_files():
        # Version 2 writes "max" where there is no limit.
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    return min(found)


def _limit_files() -> list[Path]:
    """Return the files that may hold a limit of this process's memory, from its group upwards."""
    files = []
    for folder, name in ((group_2(), "memory.max"), (group_1(), "memory.limit_in_bytes")):
        while folder is not None and folder != CGROUPS and CGROUPS in folder.parents:
            files.append(folder / name)
            folder = folder.parent
    # Within a container its own group may be mounted as the root.
    return [*files, CGROUPS / "memory.max", CGROUPS / "memory" / "memory.limit_in_bytes"]


def group_2() -> Path | None:
    """Return the folder of this process's control group of version 2, None where there is none."""
    path = _paths().get("")
    if path is None:
        return None
    for root in (CGROUPS, CGROUPS / "unified"):
        folder = root / path.lstrip("/")
        if (folder / "cgroup.controllers").is_file():
            return folder
    return None


def group_1() -> Path | None:
    """Return the folder of this process's memory group of version 1, None where there is none."""
    path = _paths().get("memory")
    if path is None:
        return None
    folder = CGROUPS / "memory" / path.lstrip("/")
    return folder if (folder / "memory.limit_in_bytes").is_file() else None


def _paths() -> dict[str, str]:
    """Return the paths of this process's control groups by controller; "" is version 2."""
    found = {}
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def bytes_of(size: str) -> int:
    """Return the bytes that a size such as `8g` says, as `conf.fields.SIZE` has it."""
    match = re.fullmatch(r"(\d+)([kmg])", size)
    assert match is not None, size
    return int(match[1]) * UNITS[match[2]]


def readable(size: float) -> str:
    """Return a number of bytes as a person reads it: 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB" if size < 1024 else f"{size / 1024:.3g} TiB"

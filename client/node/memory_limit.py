"""A limit to the memory of one process: a control group where one can be made, else RLIMIT_DATA.

In a group the kernel ends a process that wants more, and counts all that it touches. RLIMIT_DATA is
there for every user; what goes beyond it fails in the process itself, which then tells so. Neither
counts the memory of a GPU: there torch keeps to a share of it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from client.capacity import group_1, group_2

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

GROUP: Final = "cgroup"
RLIMIT: Final = "RLIMIT_DATA"
GPU: Final = "torch's share of the GPU"
NOTHING: Final = "nothing"
_DIES_WITH_PARENT: Final = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
MOST_LIKELY_KILLED: Final = "800"
"""Of this process, when the machine itself has no memory left: before the silo's node."""


class MemoryGroup:
    """A control group of its own for one process, removed when that has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remove(self) -> None:
        """Remove the group, whose process has ended; one that is not empty stays."""
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def kills(self) -> int:
        """Return how many processes the kernel has ended in the group for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError):
                for line in (self.folder / name).read_text().splitlines():
                    key, _, count = line.partition(" ")
                    if key == "oom_kill":
                        return int(count)
        return 0


def make_group(limit: int) -> MemoryGroup | None:
    """Return a new control group with a limit in bytes below this process's own, None where none can
    be made: another user, or groups that are not delegated.
    """
    for parent, name, swap in (
        (group_2(), "memory.max", "memory.swap.max"),
        (group_1(), "memory.limit_in_bytes", None),
    ):
        if parent is None:
            continue
        folder = parent / f"meadow-training-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(limit))
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            continue
        if swap is not None:
            # Where there is no swap, there is no such file either.
            with suppress(OSError):
                (folder / swap).write_text("0")
        return MemoryGroup(folder)
    return None


def enter_group(folder: Path) -> None:
    """Put this process into a control group; raises OSError."""
    # 0 is whoever writes it, whatever its number in a container.
    (folder / "cgroup.procs").write_text("0")


def limit_data(limit: int) -> bool:
    """Limit what this process may allocate; return whether that was done."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    except (OSError, ValueError):
        return False
    # macOS has the limit and does not keep to it.
    return sys.platform.startswith("linux")


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends, and be the first to go where memory
    runs out; on Linux alone.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the kernel was told.
        os._exit(1)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(MOST_LIKELY_KILLED)

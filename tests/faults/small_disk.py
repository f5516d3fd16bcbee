"""A file system of a few megabytes that can be really full: a tmpfs in a mount namespace, gone with its holder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

HOLD = 'mount -t tmpfs -o mode=0700,size="$1" none "$2" && echo ready && exec cat'
"""The holder: mounts, says so, and stays until its input ends."""


class SmallDisk:
    """`path` is a folder that only commands made with `inside` see as the small disk; `seen` is the same from here."""

    def __init__(self, path: Path, holder: int) -> None:
        self.path, self._holder = path, holder
        self.seen = Path(f"/proc/{holder}/root{path}")

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs `command` where the disk is mounted."""
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", f"--wd={os.getcwd()}", *command]

    def fill(self) -> None:
        """Take every byte that is left, also those that somebody frees meanwhile."""
        with (self.seen / "filler").open("ab", buffering=0) as file, suppress(OSError):
            for size in (65536, 4096, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def free(self) -> None:
        """Give them back."""
        (self.seen / "filler").unlink()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk of `size` (as tmpfs takes it) over an empty folder; skips the test where this user may not."""
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("no unshare and nsenter here to mount a small file system with")
    path.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "--mount", "sh", "-c", HOLD, "sh", size, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as holder:
        try:
            if holder.stdout.readline() != b"ready\n":
                pytest.skip(
                    f"this user may not mount a file system: {holder.stderr.read().decode().strip()}"
                )
            yield SmallDisk(path, holder.pid)
        finally:
            holder.stdin.close()
            holder.wait(20)

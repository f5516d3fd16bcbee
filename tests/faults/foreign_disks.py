"""File systems of other kinds, each in a mount namespace that is gone with its holder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest


@dataclass(frozen=True)
class Kind:
    """How a file system is made and mounted; `$1` is a folder for what it needs, `$2` the place."""

    needs: tuple[str, ...]
    script: str


IMAGE: Final = 'truncate -s 64M "$1/image" && '
KINDS: Final = {
    # Neither modes nor links, and A is a: as on the sticks and shares that people have.
    "exfat": Kind(
        ("mkfs.exfat", "mount.exfat-fuse", "losetup"),
        IMAGE + 'mkfs.exfat "$1/image" >&2 && device="$(losetup -f --show "$1/image")" && '
        'mount.exfat-fuse "$device" "$2" >&2; mounted=$?; losetup -d "$device"; [ $mounted = 0 ]',
    ),
    "ntfs": Kind(
        ("mkfs.ntfs", "ntfs-3g"),
        IMAGE + 'mkfs.ntfs -F -q "$1/image" >&2 && ntfs-3g "$1/image" "$2" >&2',
    ),
    # Everything is everybody's, and no mode is taken: as Azure Files is mounted.
    "modeless share": Kind(
        ("bindfs",),
        'mkdir -p "$1/below" && bindfs -p 0777 --chmod-ignore --chown-ignore "$1/below" "$2"',
    ),
    "folding ext4": Kind(
        ("mkfs.ext4", "chattr", "losetup"),
        IMAGE + 'mkfs.ext4 -q -O casefold -E encoding=utf8 "$1/image" && '
        'mount -o loop "$1/image" "$2" && rmdir "$2/lost+found" && chattr +F "$2"',
    ),
    "overlay": Kind(
        (),
        'mount -t tmpfs none "$1" && mkdir "$1/l" "$1/u" "$1/w" && '
        'mount -t overlay -o lowerdir="$1/l",upperdir="$1/u",workdir="$1/w" none "$2"',
    ),
    "small tmpfs": Kind((), 'mount -t tmpfs -o size=8m none "$2"'),
    "no more inodes": Kind((), 'mount -t tmpfs -o size=8m,nr_inodes=4 none "$2"'),
    "read-only": Kind((), 'mount --bind "$2" "$2" && mount -o remount,ro,bind "$2"'),
    "noexec": Kind((), 'mount -t tmpfs -o noexec,size=64m none "$2"'),
}
HOLD: Final = """{{ {script}; }} || exit 1
echo ready
cat
umount "$2" """
"""Unmounted in the end: a program that plays the file system would keep its own namespace."""


class ForeignDisk:
    """`path` is a folder that only commands made with `inside` see as that disk."""

    def __init__(self, path: Path, holder: int) -> None:
        self.path = path
        self._holder = holder
        self.seen = Path(f"/proc/{holder}/root{path}")

    def inside(self, *command: str, cwd: Path | None = None) -> list[str]:
        """Return the command that runs `command` where the disk is mounted."""
        place = f"--wd={cwd or os.getcwd()}"
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", place, *command]


@contextmanager
def foreign_disk(kind: str, folder: Path) -> Iterator[ForeignDisk]:
    """Mount a file system of a kind; skips the test where this machine or user may not."""
    path, extra = folder / "disk", folder / "extra"
    path.mkdir(parents=True)
    extra.mkdir()
    needs = (*KINDS[kind].needs, "unshare", "nsenter", "mount")
    missing = [one for one in needs if shutil.which(one) is None]
    if missing:
        pytest.skip(f"{kind}: {', '.join(missing)} is not installed here")
    script = HOLD.format(script=KINDS[kind].script)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(extra), str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            if holder.stdout.readline() != b"ready\n":
                holder.stdin.close()
                assert holder.stderr is not None
                said = holder.stderr.read().decode(errors="replace").strip()[-300:]
                pytest.skip(f"{kind}: this machine may not mount it: {said}")
            yield ForeignDisk(path, holder.pid)
        finally:
            holder.stdin.close()
            holder.wait(20)

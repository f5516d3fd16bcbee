"""Folders for sockets and tokens that no other user of the machine can enter, under short paths."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from conf.errors import SiloError
from conf.files.locks import lock_handle

SOCKET_PATH: Final = 103
"""Bytes of a socket's path that every system takes: 107 on Linux, 103 on macOS."""
PREFIX: Final = "mdwp-"
NAME: Final = 1 + len(PREFIX) + 8
"""Characters that `mkdtemp` adds to the path of its parent."""
JUST_MADE_SECONDS: Final = 60.0
"""Age under which a folder without a lock may be one that is just being made."""


def make_private_folder(below: int) -> Path:
    """Make a folder of mode 0700, so short that a socket whose path is `below` characters longer
    fits below it.

    It is locked as long as this process lives; one that a killed process left is removed here.
    Where the temporary folder's path is too long, or its file system has no modes, another place is
    taken. Raises SiloError MDW-312 where there is none.
    """
    refused = []
    for parent in _parents():
        if len(os.fsencode(parent)) + NAME + below > SOCKET_PATH:
            refused.append(f"{parent} (too long)")
            continue
        _remove_left_behind(parent)
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            refused.append(f"{parent} ({error.strerror})")
            continue
        if not _is_private(folder):
            folder.rmdir()
            refused.append(f"{parent} (others may enter what is made there)")
            continue
        if _lock(folder):
            return folder
        refused.append(f"{parent} (another process has locked what was made there)")
    raise SiloError(
        "MDW-312",
        f"There is no place for a private folder: {', '.join(refused)}.",
        "Set TMPDIR to a folder with a short path, on a file system with modes.",
    )


@contextlib.contextmanager
def private_folder(below: int) -> Iterator[Path]:
    """Make a private folder, and remove it with all that lies in it."""
    folder = make_private_folder(below)
    try:
        yield folder
    finally:
        remove(folder)


@functools.cache
def folder_of_this_process(below: int) -> Path:
    """Return a private folder that lasts as long as this process."""
    folder = make_private_folder(below)
    atexit.register(_remove_if_mine, folder, os.getpid())
    return folder


def remove(folder: Path) -> None:
    """Remove a private folder of this process and unlock it."""
    shutil.rmtree(folder, ignore_errors=True)
    descriptor = _locks.pop(folder, None)
    if descriptor is not None:
        os.close(descriptor)


_locks: dict[Path, int] = {}


def _parents() -> list[str]:
    """Return where temporary folders may be made, the user's choice first, each once."""
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/dev/shm"]
    return [place for place in dict.fromkeys(places) if os.path.isdir(place)]


def _is_private(folder: Path) -> bool:
    """Whether the folder has the mode that it was made with: a file system without modes forgets
    it.
    """
    found = folder.stat()
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _lock(folder: Path) -> bool:
    """Lock a new folder; False where another process, which takes it for an old one, was faster."""
    # The kernel lets go of the lock when the process ends, however it ends; and a child does not
    # inherit it,
    # since Python's descriptors are closed when another program is started.
    # Where there are no locks, nobody takes the folder for one that was left behind.
    descriptor = os.open(folder, os.O_RDONLY)
    if lock_handle(descriptor) is False:
        os.close(descriptor)
        return False
    _locks[folder] = descriptor
    return True


def _remove_left_behind(parent: str) -> None:
    """Remove folders of this user that no living process has locked: of a run that was killed."""
    for folder in Path(parent).glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                mine = os.fstat(descriptor).st_uid == os.getuid()
                if mine and _old(descriptor) and lock_handle(descriptor):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _old(descriptor: int) -> bool:
    """Whether a folder is older than the instant between its making and its locking."""
    return abs(time.time() - os.fstat(descriptor).st_mtime) > JUST_MADE_SECONDS


def _remove_if_mine(folder: Path, process: int) -> None:
    # A forked child runs the handlers of its parent, whose folder is still in use.
    if os.getpid() == process:
        remove(folder)

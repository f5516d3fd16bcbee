"""One holder at a time, among the threads and processes that see a folder.

A lock is flock(2), which the system lets go of when its holder ends. Where a file system has none,
it is a file that says which process holds it: whoever finds that this one has certainly ended takes
it over. A holder of another machine can't be judged so, and its file has to be removed by hand
(MDW-535).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from conf.errors import CheckpointError
from conf.files.faults import UNSUPPORTED, disk, shown
from conf.process_birth import has_ended, this_process

POLL_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 60.0
"""For a lock that is a file: nothing that is done under a lock takes so long."""
HALF_WRITTEN_SECONDS: Final = 5.0
"""For a file that does not say whose it is: its maker ended before it could, or is about to."""
HELD: Final = ".held"
_LARGEST: Final = 4096

_NO_LOCKS: Final = UNSUPPORTED | {errno.ENOLCK, errno.EBADF}


@dataclass
class Lock:
    """A lock that is held until `release`."""

    _handle: int | None = None
    _file: Path | None = None

    def release(self) -> None:
        """Let go of it; may come twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a path in this block, waited for; the file is made where absent.

    A thread that holds it may take it again. Raises FileFault, CheckpointError MDW-535.
    """
    mine = _of_this_process(path)
    with mine.threads:
        if mine.depth == 0:
            mine.lock = _waited_for(path)
        mine.depth += 1
        try:
            yield
        finally:
            mine.depth -= 1
            if mine.depth == 0 and mine.lock is not None:
                mine.lock.release()
                mine.lock = None


def try_lock(path: Path) -> Lock | None:
    """Return the lock of a path, whose file is made where absent; None where another holds it.

    Raises FileFault.
    """
    with disk("lock", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            answer = lock_handle(handle)
        except OSError:
            os.close(handle)
            raise
        if answer:
            return Lock(handle)
        os.close(handle)
        return None if answer is False else _by_file(path)


def lock_handle(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder as long as it is open: False where another holds it, None where
    its file system has no locks. Raises OSError.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


@dataclass
class _Mine:
    """What this process has of one lock: flock does not tell a thread from another of its own."""

    threads: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    lock: Lock | None = None
    process: int = field(default_factory=os.getpid)


_mine: dict[str, _Mine] = {}
_of_mine = threading.Lock()


def _of_this_process(path: Path) -> _Mine:
    name = os.path.abspath(path)
    with _of_mine:
        found = _mine.get(name)
        # A fork has the memory of its parent, and none of its locks.
        if found is None or found.process != os.getpid():
            found = _mine[name] = _Mine()
        return found


def _waited_for(path: Path) -> Lock:
    with disk("lock", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if lock_handle(handle, wait=True):
                return Lock(handle)
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (lock := _by_file(path)) is None:
            if time.monotonic() > deadline:
                raise _not_let_go(path)
            time.sleep(POLL_SECONDS)
        return lock


def _by_file(path: Path) -> Lock | None:
    """Take a lock that is a file; None where another process has it. Raises OSError."""
    file = path.with_name(path.name + HELD)
    for _ in range(2):
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if not _taken_away(file):
                return None
            continue
        try:
            os.write(handle, f"{this_process()} {socket.gethostname()}".encode())
        except OSError:
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return Lock(None, file)
    return None


def _taken_away(file: Path) -> bool:
    """Remove the file of a holder that has certainly ended; return whether it is gone."""
    holder = _holder(file)
    if holder is None:
        return True
    name = holder.partition(b" ")[0].decode("ascii", "replace")
    if not (has_ended(name) if name else _is_old(file)):
        return False
    # A rename, because two may see this: of them one gets this file and the other none, or the
    # first one's own, which it puts back.
    aside = file.with_name(f"{file.name}-{secrets.token_hex(4)}")
    try:
        os.rename(file, aside)
    except FileNotFoundError:
        return True
    if aside.read_bytes() != holder:
        os.rename(aside, file)
        return False
    aside.unlink()
    return True


def _holder(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST)
    except FileNotFoundError:
        return None


_unsigned: dict[tuple[str, int], float] = {}
"""Since when this process has seen a file that says nothing: by its path and inode."""


def _is_old(file: Path) -> bool:
    try:
        seen = (str(file), file.stat().st_ino)
    except FileNotFoundError:
        return True
    since = _unsigned.setdefault(seen, time.monotonic())
    return time.monotonic() - since > HALF_WRITTEN_SECONDS


def _not_let_go(path: Path) -> CheckpointError:
    file = path.with_name(path.name + HELD)
    by = (_holder(file) or b"").decode("utf-8", "replace").partition(" ")[2] or "unknown"
    return CheckpointError(
        "MDW-535",
        f"{shown(path)} is locked by a process of the machine {by} that does not let go.",
        f"Make sure that no process of Meadow writes there, then delete {shown(file)}.",
    )

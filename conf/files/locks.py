"""One holder at a time, among the threads and processes that see a folder.

A lock is flock(2), which the system lets go of when its holder ends. Where a file system has none,
it is a file that says which process holds it: whoever finds that this one has certainly ended takes
it over. A holder of another machine can't be judged so, and its file has to be removed by hand.

Either kind is waited for as long as `PATIENCE_SECONDS`: a holder that is stopped within a write
keeps its lock, and that is told (a warning, then MDW-535) instead of waited for without a word.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from conf.errors import CheckpointError
from conf.files.faults import UNSUPPORTED, disk, shown
from conf.files.lock_holders import LARGEST, SIZE, Holder, own_line
from conf.process_birth import has_ended

log = logging.getLogger(__name__)

PRIVATE: Final = 0o600
POLL_SECONDS: Final = 0.02
SHORTEST_POLL_SECONDS: Final = 0.0005
PATIENCE_SECONDS: Final = 60.0
"""How long a lock is waited for: nothing that is done under one takes so long."""
TOLD_SECONDS: Final = 5.0
"""After which the log says who is waited for."""
LOOK_SECONDS: Final = 1.0
"""What one look counts of that time at most: after a longer one this process stood still itself."""
HALF_WRITTEN_SECONDS: Final = 5.0
"""For a file that does not say whose it is: its maker ended before it could, or is about to."""
HELD: Final = ".held"

_NO_LOCKS: Final = UNSUPPORTED | {errno.ENOLCK, errno.EBADF}


@dataclass
class Lock:
    """A lock that is held until `release`."""

    _handle: int | None = None
    _file: Path | None = None
    _process: int = field(default_factory=os.getpid)

    def release(self) -> None:
        """Let go of it; may come twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            # Closing alone would not do while a child that was forked meanwhile has it open too;
            # and such a child must not let go of its parent's.
            if self._process == os.getpid():
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
        file, self._file = self._file, None
        if file is not None and self._process == os.getpid():
            with suppress(OSError):
                file.unlink()


@contextmanager
def locked(path: Path, patience: float | None = None, mode: int = PRIVATE) -> Iterator[None]:
    """Hold the lock of a path in this block, waited for; the file is made where absent.

    `patience` in seconds, `PATIENCE_SECONDS` where none is given; `mode` says whose the file is. A
    thread that holds the lock may take it again. The file says who holds it, so it must be one for
    this alone. Raises FileFault, CheckpointError MDW-535.
    """
    mine = _of_this_process(path)
    wait = _Wait(path, PATIENCE_SECONDS if patience is None else patience)
    while not mine.threads.acquire(timeout=POLL_SECONDS):
        wait.look()
    try:
        if mine.depth == 0:
            mine.lock = _waited_for(path, wait, mode)
        mine.depth += 1
        try:
            yield
        finally:
            mine.depth -= 1
            if mine.depth == 0 and mine.lock is not None:
                mine.lock.release()
                mine.lock = None
    finally:
        mine.threads.release()


def try_lock(path: Path) -> Lock | None:
    """Return the lock of a path, whose file is made where absent; None where another holds it.

    Raises FileFault.
    """
    with disk("lock", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            answer = lock_handle(handle)
        except OSError:
            os.close(handle)
            raise
        if answer:
            return Lock(handle)
        os.close(handle)
        return None if answer is False else _by_file(path)


def lock_handle(handle: int) -> bool | None:
    """Lock an open file or folder as long as it is open: False where another holds it, None where
    its file system has no locks. Raises OSError.
    """
    # Never without LOCK_NB: such a wait has no end and says nothing.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


@dataclass
class _Wait:
    """How long a lock was waited for: by looks, so that no pause of this process counts."""

    path: Path
    patience: float
    clock: Callable[[], float] = time.monotonic
    _waited: float = 0.0
    _last: float | None = None
    _told: bool = False

    def look(self) -> None:
        """Count the time since the last look; once it is long, say in the log who has the lock.

        Raises CheckpointError MDW-535 when the patience is over.
        """
        now = self.clock()
        self._waited += 0.0 if self._last is None else min(now - self._last, LOOK_SECONDS)
        self._last = now
        if self._waited > self.patience:
            raise _not_let_go(self.path, self._waited)
        if self._waited > TOLD_SECONDS and not self._told:
            self._told = True
            log.warning(
                "waiting for %s, locked by %s", shown(self.path), _holder(self.path).in_words()
            )


def _waited_for(path: Path, wait: _Wait, mode: int) -> Lock:
    with disk("lock", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            _give(handle, mode)
            if _lock_of_handle(handle, wait):
                _sign(handle)
                return Lock(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        while (lock := _by_file(path, mode)) is None:
            wait.look()
            time.sleep(POLL_SECONDS)
        return lock


def _lock_of_handle(handle: int, wait: _Wait) -> bool:
    """Lock an open file, waited for; False where its file system has no locks. Raises OSError."""
    pause = SHORTEST_POLL_SECONDS
    while (answer := lock_handle(handle)) is False:
        wait.look()
        # Short at first, since most holders write one small file.
        time.sleep(pause)
        pause = min(2 * pause, 8 * SHORTEST_POLL_SECONDS)
    return answer is True


def _sign(handle: int) -> None:
    """Write into a lock's file who holds it, as far as its disk takes that: it is a courtesy."""
    # Of one length and over what is there: a file that is cut and written anew is flushed to disk
    # when it is closed (ext4 does so), which costs seventy times as much.
    line = own_line().ljust(SIZE)[:SIZE]
    with suppress(OSError):
        try:
            os.pwrite(handle, line, 0)
        except OSError:
            # Where there is no room for the line, nobody else's stays in its place.
            os.ftruncate(handle, 0)


def _give(handle: int, mode: int) -> None:
    """Give a lock's file to more than its maker, whatever the umask took of that."""
    if mode != PRIVATE:
        # Only its maker may, and a file system need not have modes.
        with suppress(OSError):
            os.fchmod(handle, mode)


def _by_file(path: Path, mode: int = PRIVATE) -> Lock | None:
    """Take a lock that is a file; None where another process has it. Raises OSError."""
    file = _held_file(path)
    for _ in range(2):
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            if not _taken_away(file):
                return None
            continue
        try:
            _give(handle, mode)
            os.write(handle, own_line())
        except OSError:
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return Lock(None, file)
    return None


def _taken_away(file: Path) -> bool:
    """Remove the file of a holder that has certainly ended; return whether it is gone."""
    holder = _line(file)
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


def _holder(path: Path) -> Holder:
    """Return what is said of a lock's holder, by whichever of its files says it."""
    with suppress(OSError):
        return Holder.of(_line(_held_file(path)) or _line(path) or b"")
    return Holder()


def _line(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST)
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


def _held_file(path: Path) -> Path:
    return path.with_name(path.name + HELD)


def _not_let_go(path: Path, seconds: float) -> CheckpointError:
    file = _held_file(path)
    holder = _holder(path)
    remedy = holder.remedy()
    if file.exists():
        remedy = f"Make sure that no process of Meadow writes there, then delete {shown(file)}."
    return CheckpointError(
        "MDW-535",
        f"{shown(path)} has been locked for {seconds:.0f} s by {holder.in_words()}.",
        remedy,
    )

"""Files and lines that are whole or not there: written beside, synced, then renamed over.

What a file system lacks is worked around: a file is made where absent by a hard link, else by a
rename that replaces nothing, else under a lock; a folder that can't be synced is not. All raise
FileFault, and nothing is left of the new content then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from conf.files.faults import UNSUPPORTED, disk
from conf.files.locks import locked

TEMPORARY: Final = ".tmp-"
"""How the name of an unfinished file begins; one that is there when nobody writes was left by a
crash.
"""
PRIVATE: Final = 0o600
ORDINARY: Final = 0o666
"""Lessened by the umask."""
Content = bytes | bytearray | memoryview | str | Iterable[bytes | memoryview]

_NO_LINKS: Final = UNSUPPORTED | {errno.EPERM, errno.EMLINK, errno.EXDEV}
"""How file systems refuse a hard link that they can't make, or may not."""
_NO_SYNC: Final = UNSUPPORTED | {errno.EBADF, errno.EISDIR, errno.EPERM, errno.EACCES}
"""How file systems, and folders that may not be listed, refuse a sync that they have not."""
_NO_RENAME_OVER: Final = UNSUPPORTED | {errno.EEXIST}
_RENAME_NOREPLACE: Final = 1
_HERE: Final = -100
"""AT_FDCWD of renameat2(2)."""


def write_atomic(path: Path, content: Content, mode: int = ORDINARY) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, also after a crash.

    `mode` is lessened by the umask, so 0o600 stays the owner's alone. An iterable's parts are
    written one after another. Raises FileFault.
    """
    with disk("write", path), staged(path, content, mode) as temporary:
        put_over(temporary, path)


def create(path: Path, content: Content, mode: int = ORDINARY) -> bool:
    """Make a file with its content and return True; where something is there change nothing: False.

    Of several that want the same name one gets it. Raises FileFault.
    """
    if os.path.lexists(path):
        return False
    with disk("write", path), staged(path, content, mode) as temporary:
        return put_new(temporary, path)


def write_new(path: Path, content: Content, mode: int = PRIVATE) -> None:
    """Write a file that is not there yet, for a reader who is started afterwards: not synced.

    Raises FileFault, MDW-531 where something is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with disk("write", path), open(os.open(path, flags, mode), "wb", buffering=0) as file:
        for part in _parts(content):
            write_whole(file.fileno(), part)


@contextmanager
def staged(
    path: Path, content: Content, mode: int = ORDINARY, whole_mode: int | None = None
) -> Iterator[Path]:
    """Yield a synced temporary file beside `path`; it is gone afterwards, and the folder synced.

    `whole_mode` is given to it whatever the umask takes of `mode`. Raises OSError.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(handle, "wb", buffering=0) as file:
            if whole_mode is not None:
                give_mode(handle, whole_mode)
            for part in _parts(content):
                write_whole(file.fileno(), part)
            # The content must be on disk before the name points to it.
            sync(file.fileno())
        yield temporary
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_over(temporary: Path, path: Path) -> None:
    """Rename a file over another, or to a new name; raises OSError.

    Where a file system renames over nothing, the old file steps aside first and is put back if the
    new one can't take its place; a reader may then find neither for a moment.
    """
    try:
        os.replace(temporary, path)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME_OVER or not path.is_file():
            raise
    aside = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(aside, path)
        raise
    aside.unlink()


def put_new(temporary: Path, path: Path) -> bool:
    """Give a finished file a new name and return True; False where that name is taken.

    Raises OSError.
    """
    # A plain rename would put it over a file that another has put there meanwhile.
    for give in (_linked, _renamed):
        taken = give(temporary, path)
        if taken is not None:
            return taken
    with locked(path.parent / ".lock"):
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
        return True


def append_line(path: Path, line: str, mode: int = ORDINARY) -> None:
    """Add a line to a file, made where absent: the whole line or nothing. Raises FileFault."""
    with disk("write", path), _for_append(path, mode) as handle:
        _all_or_nothing(handle, f"{line}\n".encode(), lambda _: None)


def append_durably(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Add whole lines to a file, made where absent and on disk when this returns: all of them or
    nothing. Raises FileFault.
    """
    with disk("write", path):
        new = not path.exists()
        with _for_append(path, mode) as handle:
            write_synced(handle, data)
        if new:
            sync_folder(path.parent)


def open_for_append(path: Path, mode: int = PRIVATE) -> int:
    """Return an open file, made where absent, that is written at its end; raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)


def write_synced(handle: int, data: bytes) -> None:
    """Write bytes at the end of an open file and sync it.

    Raises OSError, and the file then is as it was.
    """
    _all_or_nothing(handle, data, sync)


def write_whole(handle: int, data: bytes | bytearray | memoryview) -> None:
    """Write bytes to an open file, however little of them a call takes; raises OSError."""
    rest = memoryview(data)
    while rest:
        written = os.write(handle, rest)
        if written == 0:
            # A call that takes nothing says no more than that, and would be asked for ever.
            raise OSError(errno.EIO, "nothing more is written")
        rest = rest[written:]


def sync(handle: int) -> None:
    """Have the content of an open file on disk, as far as its file system has such a promise.

    Raises OSError where the disk fails.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last, where its file system can; raises OSError where the disk
    fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def give_mode(place: int | Path, mode: int) -> None:
    """Set a mode, where the file system has modes; raises OSError.

    Whether it was taken is asked of `conf.files.kinds.keeps_modes`, by who depends on it.
    """
    try:
        os.chmod(place, mode)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EPERM}:
            raise


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, unless it is there; its name lasts. Raises FileFault."""
    with disk("make", folder):
        if not folder.is_dir():
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
            sync_folder(folder.parent)


def rename_new(made: Path, path: Path) -> bool:
    """Give a finished folder its name and return True; False where that is taken by anything but an
    empty folder. Raises OSError.
    """
    try:
        os.rename(made, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    sync_folder(path.parent)
    return True


def _parts(content: Content) -> Iterable[bytes | bytearray | memoryview]:
    if isinstance(content, str):
        return [content.encode()]
    return [content] if isinstance(content, bytes | bytearray | memoryview) else content


@contextmanager
def _for_append(path: Path, mode: int) -> Iterator[int]:
    handle = open_for_append(path, mode)
    try:
        yield handle
    finally:
        os.close(handle)


def _all_or_nothing(handle: int, data: bytes, then: Callable[[int], None]) -> None:
    status = os.fstat(handle)
    try:
        write_whole(handle, data)
        then(handle)
    except OSError:
        # Half a line would spoil the next one. What made the write fail is the error to be told,
        # and a pipe or a terminal has nothing to cut off.
        if stat.S_ISREG(status.st_mode):
            with suppress(OSError):
                os.ftruncate(handle, status.st_size)
        raise


def _linked(temporary: Path, path: Path) -> bool | None:
    """Return whether a link took the name, None where there are no links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return None
        raise
    return True


def _renamed(temporary: Path, path: Path) -> bool | None:
    """Return whether a rename that replaces nothing took the name, None where there is none."""
    call = _renameat2()
    if call is None:
        return None
    if call(_HERE, os.fsencode(temporary), _HERE, os.fsencode(path), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number in UNSUPPORTED:
        return None
    raise OSError(number, os.strerror(number), str(path))


@cache
def _renameat2() -> Callable[..., int] | None:
    """Return the system's own call; None where its C library has none."""
    with suppress(OSError, AttributeError):
        call: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
        return call
    return None

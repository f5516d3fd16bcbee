"""File systems that fail: the n-th system call on files of a block fails once, with a given errno."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from conf.files.faults import FAMILY

CALLS = (
    *("open", "write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "chmod"),
    *("ftruncate", "truncate", "fstat", "stat", "lstat", "listdir", "scandir"),
)
"""Of the module os; `flock` and the opening of a file for reading come on top."""
WRITING = {
    *("write", "fsync", "replace", "rename", "link", "mkdir", "chmod", "ftruncate", "truncate"),
    "flock",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
BROKEN = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.EFBIG)
UNABLE = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOLCK)
ERRNOS = (*FULL, *REFUSED, *BROKEN, *UNABLE)
CODES = {number: kind.code for number, kind in FAMILY.items()}


class Failing:
    """Counts the calls of one thread below a folder; the one at `at` fails with `number`."""

    def __init__(self, below: Path, at: int | None = None, number: int = 0) -> None:
        self._below = os.fspath(below)
        self._at = at
        self._number = number
        self._thread = threading.get_ident()
        self._counting = False
        self.calls: list[str] = []
        self.failed: str | None = None

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that is counted, and may fail instead of being made."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_counted(args):
                self.calls.append(name)
                if len(self.calls) - 1 == self._at:
                    self.failed = name
                    path = args[0] if isinstance(args[0], str | os.PathLike) else None
                    text = None if path is None else os.fspath(path)
                    raise OSError(self._number, os.strerror(self._number), text)
            return real(*args, **kwargs)

        return call

    def _is_counted(self, args: tuple[Any, ...]) -> bool:
        if threading.get_ident() != self._thread or not args or self._counting:
            return False
        self._counting = True
        try:
            place = args[0]
            if isinstance(place, int):
                place = os.readlink(f"/proc/self/fd/{place}")
            return str(os.fspath(place)).startswith(self._below)
        except (OSError, TypeError):
            return False
        finally:
            self._counting = False


@contextmanager
def failing(below: Path, at: int | None = None, number: int = 0) -> Iterator[Failing]:
    """Count the calls on files below a folder in this block; let the one at `at` fail."""
    faults = Failing(below, at, number)
    calls = {name: faults.wrapped(name, getattr(os, name)) for name in CALLS}
    # A real one would take most of the time, and what a crash leaves on the disk is not looked at.
    calls["fsync"] = faults.wrapped("fsync", lambda _: None)
    with (
        mock.patch.multiple(os, **calls),
        mock.patch.object(fcntl, "flock", faults.wrapped("flock", fcntl.flock)),
        mock.patch.object(io, "open", faults.wrapped("read", io.open)),
    ):
        yield faults


def calls_of(below: Path, work: Callable[[], object]) -> list[str]:
    """Return the calls that some work makes below a folder, in order."""
    with failing(below) as faults:
        work()
    return faults.calls


def each_failure(
    calls: list[str], errnos: tuple[int, ...] = ERRNOS
) -> Iterator[tuple[int, str, int]]:
    """Yield each call of some work with each errno: index, name, errno."""
    for at, name in enumerate(calls):
        for number in errnos:
            yield at, name, number

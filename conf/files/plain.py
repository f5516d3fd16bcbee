"""Reading what somebody else may have put there: a plain file and nothing else, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class NotPlain(OSError):
    """A link, a folder, a pipe or a device lies where a file is expected."""


@contextmanager
def opened_plain(path: Path) -> Iterator[tuple[IO[bytes], os.stat_result]]:
    """Open a plain file for reading, with its status: what was looked at is what is read.

    Raises NotPlain for anything else, and OSError.
    """
    # A pipe would be waited for, and a link may lead anywhere.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_plain(path) from None
        raise
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(status.st_mode):
            raise _not_plain(path)
        yield file, status


def _not_plain(path: Path) -> NotPlain:
    return NotPlain(errno.EINVAL, "it is not a plain file", str(path))

"""What a failed system call on files means to a person.

Full (MDW-513), forbidden (514), broken (515).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.errors import CheckpointError


@contextmanager
def disk(verb: str, where: str | Path) -> Iterator[None]:
    """Raise what a failed system call in this block means: CheckpointError MDW-513 to 515."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, verb, str(where)) from error


def disk_error(error: OSError, verb: str, where: str) -> CheckpointError:
    """Return a failed system call as the error that a person reads."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            "MDW-513", f"The disk is full: can't {verb} {where}.", "Free some space, then resume."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = (
            "Make the folder writable for this user, on a file system with hard links,"
            " or choose another."
        )
        return CheckpointError("MDW-514", f"May not {verb} {where} ({error.strerror}).", hint)
    return CheckpointError(
        "MDW-515", f"Can't {verb} {where}: {error.strerror or error}.", "Check the disk."
    )

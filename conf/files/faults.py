"""What a failed system call on files means to a person: one error, a code for each kind of cause.

    MDW-513 full               MDW-528 not possible there   MDW-532 not there
    MDW-514 not permitted      MDW-529 the mount is gone    MDW-533 too large for the place
    MDW-515 the disk failed    MDW-530 too many open files  MDW-534 in use
    MDW-527 not a name there   MDW-531 something in the way

A `FileFault` names the path for the owner of the machine. Another party is told its code alone
(`conf.border`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conf.errors import CheckpointError, Told


class FileFault(CheckpointError, OSError):
    """A file or folder can't be read or written; `errno` and `filename` are the system's own.

    It is an OSError as well, for who handles all of these in one way.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        told: Mapping[str, Told] | None = None,
        number: int | None = None,
        path: str = "",
        cause: str = "",
    ) -> None:
        super().__init__(code, message, hint, told)
        self.errno = number
        self.filename = path
        self.strerror = cause

    def __reduce__(self) -> tuple[type[FileFault], tuple[object, ...]]:  # type: ignore[override]
        parts = (self.code, self.message, self.hint, self.told)
        return type(self), (*parts, self.errno, self.filename, self.strerror)


@dataclass(frozen=True)
class Kind:
    """A kind of cause: its code, what happened (`{doing}` is "write PATH"), what to do next."""

    code: str
    text: str
    hint: str


FULL: Final = Kind("MDW-513", "The disk is full: can't {doing}.", "Free some space, then resume.")
QUOTA: Final = Kind(
    "MDW-513",
    "This user's quota is used up: can't {doing}.",
    "Free some space or have the quota raised, then resume.",
)
FORBIDDEN: Final = Kind(
    "MDW-514",
    "May not {doing} ({cause}).",
    "Make the folder writable for this user, or choose another.",
)
READ_ONLY: Final = Kind(
    "MDW-514",
    "May not {doing} ({cause}).",
    "The file system is mounted read-only: choose another folder, or mount it for writing.",
)
BROKEN: Final = Kind("MDW-515", "Can't {doing}: {cause}.", "Check the disk.")
NAME: Final = Kind(
    "MDW-527",
    "Can't {doing}: the file system there can't hold such a name ({cause}).",
    'Choose a shorter name or path, without : ? * " < > | and bytes that are no text.',
)
UNABLE: Final = Kind(
    "MDW-528",
    "Can't {doing}: the file system there is not able to ({cause}).",
    "Choose a folder on another file system, a local disk if there is one.",
)
GONE: Final = Kind(
    "MDW-529",
    "Can't {doing}: the file system there has gone away ({cause}).",
    "Mount it again, then resume.",
)
DESCRIPTORS: Final = Kind(
    "MDW-530",
    "Can't {doing}: too many files are open ({cause}).",
    "Raise the limit (ulimit -n), or run less at once.",
)
IN_THE_WAY: Final = Kind(
    "MDW-531",
    "Can't {doing}: something of another kind is in its place ({cause}).",
    "Look at the path, and move what is there, or choose another.",
)
ABSENT: Final = Kind(
    "MDW-532",
    "Can't {doing}: it is not there ({cause}).",
    "Was the folder removed or renamed meanwhile? Put it back, or choose another.",
)
TOO_LARGE: Final = Kind(
    "MDW-533",
    "Can't {doing}: the file would be larger than its place allows ({cause}).",
    "Choose another file system, or raise the limit (ulimit -f).",
)
IN_USE: Final = Kind(
    "MDW-534",
    "Can't {doing}: it is in use ({cause}).",
    "Find out which process uses it, and try again.",
)

_BY_ERRNO: Final[dict[str, Kind]] = {
    **dict.fromkeys(("ENOSPC",), FULL),
    **dict.fromkeys(("EDQUOT",), QUOTA),
    **dict.fromkeys(("EACCES", "EPERM"), FORBIDDEN),
    **dict.fromkeys(("EROFS",), READ_ONLY),
    **dict.fromkeys(("EIO", "EREMOTEIO", "EBADMSG", "EUCLEAN"), BROKEN),
    **dict.fromkeys(("ENAMETOOLONG", "EILSEQ"), NAME),
    **dict.fromkeys(("EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EXDEV", "EMLINK", "EINVAL"), UNABLE),
    **dict.fromkeys(("ESTALE", "ENOTCONN", "ENODEV", "ENXIO", "ENOMEDIUM", "ESHUTDOWN"), GONE),
    **dict.fromkeys(("EHOSTDOWN", "EHOSTUNREACH", "ETIMEDOUT", "ECONNABORTED"), GONE),
    **dict.fromkeys(("EMFILE", "ENFILE"), DESCRIPTORS),
    **dict.fromkeys(("EEXIST", "ENOTDIR", "EISDIR", "ENOTEMPTY", "ELOOP"), IN_THE_WAY),
    **dict.fromkeys(("ENOENT",), ABSENT),
    **dict.fromkeys(("EFBIG",), TOO_LARGE),
    **dict.fromkeys(("EBUSY", "ETXTBSY", "EAGAIN", "EDEADLK", "ENOLCK"), IN_USE),
}
FAMILY: Final[dict[int, Kind]] = {
    number: kind
    for name, kind in _BY_ERRNO.items()
    if (number := getattr(errno, name, None)) is not None
}
"""Each foreseeable error of a file system by its number, as far as this system has it."""

UNSUPPORTED: Final = frozenset(
    getattr(errno, name)
    for name in ("EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL")
    if hasattr(errno, name)
)
"""How a file system says that it has no such thing."""
_OF_FILES_ALONE: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG)
)
"""What no socket or process says, so that it needs no path to be known."""


def kind_of(error: OSError) -> Kind:
    """Return the kind of cause; `BROKEN` for what no file system is known to say."""
    return FAMILY.get(error.errno or 0, BROKEN)


def disk_error(error: OSError, verb: str, where: str) -> FileFault:
    """Return a failed system call as the error that a person reads; `where` is shown as it is."""
    if isinstance(error, FileFault):
        return error
    kind = kind_of(error)
    cause = error.strerror or str(error) or type(error).__name__
    message = kind.text.format(doing=f"{verb} {where}", cause=cause)
    path = _shown(error.filename) or where
    return FileFault(kind.code, message, kind.hint, number=error.errno, path=path, cause=cause)


@contextmanager
def disk(verb: str, where: str | Path) -> Iterator[None]:
    """Raise what a failed system call in this block means: a FileFault."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, verb, shown(where)) from error


def foreseen(error: BaseException) -> FileFault | None:
    """Return an error that reached the top as what it means; None where it may be a fault of ours.

    For who ends a program or a run: what went wrong is told by its cause also where nobody on the
    way has said so.
    """
    if isinstance(error, FileFault):
        return error
    if not isinstance(error, OSError) or error.errno not in FAMILY:
        return None
    if error.filename is None and error.errno not in _OF_FILES_ALONE:
        return None
    return disk_error(error, "use", _shown(error.filename) or "a file")


def shown(path: object) -> str:
    """Return a path as it can be printed anywhere: bytes that are no text are replaced."""
    text = path.decode("utf-8", "replace") if isinstance(path, bytes) else str(path)
    return text.encode("utf-8", "replace").decode()


def _shown(path: object) -> str:
    return "" if path is None or path == "" else shown(path)

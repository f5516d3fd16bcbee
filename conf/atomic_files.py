"""Files and lines that are whole or not there: written beside, synced, then renamed over."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".tmp-"
"""How the name of an unfinished file begins; one that is there when nobody writes was left by a
crash.
"""


def write_atomic(path: Path, content: bytes | str | Iterable[bytes], mode: int = 0o666) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, also after a crash.

    `mode` is lessened by the umask, so 0o600 stays the owner's alone. An iterable's parts are
    written one after another. Raises OSError.
    """
    parts: Iterable[bytes]
    if isinstance(content, str):
        parts = [content.encode()]
    elif isinstance(content, bytes):
        parts = [content]
    else:
        parts = content
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.writelines(parts)
            file.flush()
            # The content must be on disk before the name points to it.
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def append_line(path: Path, line: str, mode: int = 0o666) -> None:
    """Add a line to a file, made where absent.

    Raises OSError, and no part of the line is left then.
    """
    rest = memoryview(f"{line}\n".encode())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    try:
        size = os.fstat(file).st_size
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            os.ftruncate(file, size)  # half a line would spoil the next one
            raise
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last; raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files that are whole or not there: written beside, synced, then renamed over; lines that are whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from server.store import disk


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, also after a crash.

    Raises CheckpointError MDW-513 to 515 where the disk is full or fails; nothing is left of the new content then.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with disk("write", path):
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, made where absent; raises as `write_atomic`, and no part of the line is left then."""
    rest = memoryview(f"{line}\n".encode())
    with disk("write", path):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(file).st_size
            try:
                while rest:
                    rest = rest[os.write(file, rest) :]
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)

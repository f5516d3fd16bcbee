"""The writes of `conf.atomic_files` in a run's folder: for its user alone, and told by the path and
what to do where the disk is full or fails.

All raise CheckpointError MDW-513 to 515, and nothing is left of the new content then.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from azureml_jobs.storage.disk_errors import disk
from conf import atomic_files

PRIVATE: Final = 0o600
"""Mode of a run's files: a model tells of the data it was trained on, and a log of who trained."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, also after a crash."""
    with disk("write", path):
        atomic_files.write_atomic(path, content, mode=PRIVATE)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, made where absent: the whole line or nothing."""
    with disk("write", path):
        atomic_files.append_line(path, line, mode=PRIVATE)


def append_durably(path: Path, data: bytes) -> None:
    """Add whole lines to a file, made where absent and on disk when this returns: all of them or
    nothing.
    """
    with disk("write", path):
        new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
        try:
            write_all(handle, data)
        finally:
            os.close(handle)
        if new:
            atomic_files.sync_folder(path.parent)


def write_all(handle: int, data: bytes) -> None:
    """Write bytes at the end of an open file and sync it.

    Raises OSError, and the file then is as it was.
    """
    size = os.fstat(handle).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise

"""The writes of `conf.atomic_files`, told by the path and what to do where the disk is full or fails.

Both raise CheckpointError MDW-513 to 515, and nothing is left of the new content then.
"""

from __future__ import annotations

from pathlib import Path

from conf import atomic_files
from server.store.folder import disk


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, also after a crash."""
    with disk("write", path):
        atomic_files.write_atomic(path, content)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, made where absent: the whole line or nothing."""
    with disk("write", path):
        atomic_files.append_line(path, line)

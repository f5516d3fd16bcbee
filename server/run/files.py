"""The writes of `conf.files` in a run's folder: for its user alone.

All raise FileFault, and nothing is left of the new content then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from conf.files import whole

PRIVATE: Final = whole.PRIVATE
"""Mode of a run's files: a model tells of the data it was trained on, and a log of who trained."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, also after a crash."""
    whole.write_atomic(path, content, mode=PRIVATE)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, made where absent: the whole line or nothing."""
    whole.append_line(path, line, mode=PRIVATE)


def append_durably(path: Path, data: bytes) -> None:
    """Add whole lines to a file, made where absent and on disk when this returns: all of them or
    nothing.
    """
    whole.append_durably(path, data, mode=PRIVATE)

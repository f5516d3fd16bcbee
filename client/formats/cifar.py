"""CIFAR-10's binary files: a byte of label and 3,072 of pixels an image, red, then green, then blue.

Its other form is a pickle, which executes what it holds: it is not read.

    MDW-201 a file of another length, or a label beyond 9
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf.errors import DataError

SIDE: Final = 32
CLASSES: Final = 10
_ROW: Final = 1 + 3 * SIDE * SIDE


def read_cifar(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a file's images (n, 3, 32, 32) and labels (n)."""
    try:
        size = path.stat().st_size
        if size == 0 or size % _ROW:
            raise _broken(path, f"{size} bytes are no whole number of images")
        rows = np.memmap(path, np.uint8, "r", shape=(size // _ROW, _ROW))
    except OSError as error:
        raise _broken(path, error.strerror or "it can't be opened") from error
    labels = rows[:, 0].astype(np.int64)
    if labels.max() >= CLASSES:
        raise _broken(path, f"it has labels beyond {CLASSES - 1}")
    return rows[:, 1:].reshape(-1, 3, SIDE, SIDE), labels


def _broken(path: Path, why: str) -> DataError:
    return DataError("MDW-201", f"{path} can't be read: {why}.", "Fetch or write the file again.")

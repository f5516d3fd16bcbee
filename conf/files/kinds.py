"""What the file system of a folder can do, asked of the file system itself."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

OTHERS: Final = 0o077


def keeps_modes(folder: Path) -> bool:
    """Return whether what is made in a folder is its maker's alone where that was asked for.

    False on a share that is mounted for all (Azure Files), on exFAT. Makes a folder for a moment;
    raises OSError.
    """
    made = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
    try:
        found = made.stat()
        return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & OTHERS
    finally:
        made.rmdir()


def folds_case(path: Path) -> bool:
    """Return whether an existing path is found under its name in other letters too: `A` is `a`.

    Raises OSError.
    """
    swapped = path.with_name(path.name.swapcase())
    if swapped.name == path.name or not os.path.lexists(swapped):
        return False
    # Not by the inode: a file system in a process of its own may give each spelling another.
    return swapped.name not in os.listdir(path.parent)

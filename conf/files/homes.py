"""Paths that begin at the user's home, for users who have none: a bare user number in a container."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from conf.files.faults import FileFault, shown


def expanded(path: str | Path) -> Path:
    """Return a path from the root, `~` being the home of its user.

    Raises FileFault MDW-537 where that is nowhere.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise _no_home(str(path)) from None


def cache_folder() -> Path:
    """Return where this user's programs keep what they can fetch again.

    Raises FileFault MDW-537 where the user has no home and the environment names no other place.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _no_home(path: str) -> FileFault:
    return FileFault(
        "MDW-537",
        f"{shown(path)} can't be found: this user has no home folder.",
        "Write the path from the root, or set HOME (or XDG_CACHE_HOME) to a folder of this user.",
        number=errno.ENOENT,
        path=path,
        cause="no home folder",
    )

"""The files under a folder, as they are found on every machine alike: whatever can't be entered is an
error, and links to folders are not followed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


def files_under(root: Path) -> Iterator[Path]:
    """Yield the regular files at any depth under a folder, and links to such files.

    A link to a folder could lead anywhere, or round in a circle: it is named in the log and left
    out. Raises OSError for a folder that may not be entered, whose files would be missing silently.
    """

    def refuse(error: OSError) -> None:
        raise error

    for where, folders, names in os.walk(root, onerror=refuse):
        here = Path(where)
        for name in folders:
            if (here / name).is_symlink():
                log.warning("%s is a link to a folder, and is not followed.", here / name)
        for name in names:
            path = here / name
            if path.is_file():
                yield path
            else:
                log.warning("%s is no file, or a link to nothing, and is not read.", path)

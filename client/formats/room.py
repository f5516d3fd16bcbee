"""Whether what a file claims to hold fits the memory, looked at before anything is allocated.

MDW-250 data that this machine's memory does not hold
"""

from __future__ import annotations

from pathlib import Path

from client.capacity import memory
from conf.errors import DataError

GIB = 2**30


def check_room(path: Path, needed: int, holds: str) -> None:
    """Raise DataError MDW-250 where so many bytes are more than this process may take; `holds` says
    what of the file needs them.
    """
    most = memory()
    if needed <= most:
        return
    raise DataError(
        "MDW-250",
        f"{path} holds {holds}: about {needed / GIB:,.1f} GiB in memory, and there are"
        f" {most / GIB:,.1f} GiB.",
        "Remove what the contract does not need, divide it, or give the process more memory.",
        {"expected": "data that fits the memory", "found": "more"},
    )

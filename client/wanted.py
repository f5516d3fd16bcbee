"""Whether anybody still waits for what this thread is doing: a round may close while a silo trains.

The node says so (`until`), who works for long looks from batch to batch (`check`). Without a node,
as in a simulation, everything is wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_doing = threading.local()


class NotWanted(Exception):
    """Nobody waits for this work any more; no error, and nothing of it is kept."""


@contextmanager
def until(closed: threading.Event) -> Iterator[None]:
    """Let what this thread does in the block end once `closed` is set."""
    _doing.closed = closed
    try:
        yield
    finally:
        _doing.closed = None


def check() -> None:
    """Raise NotWanted where nobody waits any more; it takes less than a microsecond."""
    closed: threading.Event | None = getattr(_doing, "closed", None)
    if closed is not None and closed.is_set():
        raise NotWanted

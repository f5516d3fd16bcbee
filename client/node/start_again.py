"""Starting a silo's process anew in its own place, where it can't use its device any more.

Whatever started it (a launcher, Azure ML, Kubernetes, a person) sees one process that goes on: Azure
ML starts no job again that has failed. What ends itself again and again is given up, because
somebody has to look.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from typing import Final

log = logging.getLogger(__name__)

VARIABLE: Final = "MEADOW_STARTED_AGAIN"
"""Environment of a process that was started anew: when, in seconds of the machine's clock since its
start, once for each time.
"""
MOST: Final = 5
"""Times within `WINDOW` seconds."""
WINDOW: Final = 600.0


def noted(before: str, now: float) -> str | None:
    """Return what to note of one more start, None where there were too many of late.

    `before` is what was noted until now; anything that is no such note counts for nothing.
    """
    recent = [time for time in _times(before) if time >= 0 and 0 <= now - time < WINDOW]
    if len(recent) >= MOST:
        return None
    # Rounded down: what is noted as later than the next start would not count.
    return " ".join(f"{time:.1f}" for time in [*recent, math.floor(now * 10) / 10])


def _times(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split()[: 2 * MOST]]
    except ValueError:
        return []


def start_again() -> None:
    """Replace this process by a new one with the same arguments; return where it was done too often.

    Nothing of the old one is left: its connection and leases are closed, and the device's driver
    forgets its context.
    """
    note = noted(os.environ.get(VARIABLE, ""), time.monotonic())
    if note is None:
        log.error("not started again: it was %d times in %.0f s; look at its device", MOST, WINDOW)
        return
    log.error("this process starts again in its own place")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: note})

"""A clock of the time for which this process was running: it stands still while the process does.

A process stands still for many reasons that say nothing of anybody else: SIGSTOP, a suspended
laptop, a virtual machine that is moved, a machine that swaps. Whoever judges others by the clock
(gone, too late, idle) after such a pause would blame them for its own.

A thread looks at the system's time since boot every second. Where a look comes far too late the
process was not running, and the time since the last look does not count.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks of the thread."""
PAUSE_SECONDS: Final = 5.0
"""Without a look for this long the process stood still; shorter ones cost nobody its patience."""

Clock = Callable[[], float]
"""Seconds since some moment; never set back."""


def since_boot() -> float:
    """Return the seconds since boot, those of a suspended machine included where the system knows.

    CLOCK_MONOTONIC stands still while a machine is suspended, so it can't show such a pause.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class RunningClock:
    """Seconds for which this process was running; safe to use from any thread."""

    def __init__(self, now: Clock = since_boot) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._last_look = now()
        self._stood_still = 0.0
        self._watched = False
        self.resumed = -math.inf
        """When, by this clock, the last pause ended; minus infinity while there was none."""

    def __call__(self) -> float:
        """Return the time; whoever looks first after a pause notices it."""
        with self._lock:
            now = self._now()
            pause = now - self._last_look
            self._last_look = now
            # Unwatched, a long time between two looks means only that nobody looked.
            if not self._watched or pause < PAUSE_SECONDS:
                return now - self._stood_still
            self._stood_still += pause
            self.resumed = now - self._stood_still
        log.warning("this process stood still for %.0f s, which count against nobody", pause)
        return self.resumed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every second in this block, so that pauses are noticed."""
        stopped = threading.Event()
        self()
        self._watched = True

        def look() -> None:
            while not stopped.wait(LOOK_SECONDS):
                self()

        watching = threading.Thread(target=look, name="running-clock", daemon=True)
        watching.start()
        try:
            yield
        finally:
            self._watched = False
            stopped.set()
            watching.join()

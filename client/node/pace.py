"""How many bytes one call of a transfer carries: what the link took in some seconds, as measured."""

from __future__ import annotations

import threading
from typing import Final

PART_SECONDS: Final = 2.0
"""What one call may take, by the rate of the calls before: what a cut costs at most."""
FIRST_BYTES: Final = 256 * 2**10
"""Of the first call, when nothing is known of the link: 4 s at 500 kbit/s."""
LEAST_BYTES: Final = 16 * 2**10
"""Of a call over the slowest link: it is served as long as it carries a part in `PART_DEADLINE`."""
MOST_BYTES: Final = 6 * 2**20
"""Of one call: a whole chunk of 5 MiB and some small objects."""
FAST: Final = MOST_BYTES
"""Bytes of a call from which on a link is fast enough for two of them at once."""


class CallLost(Exception):
    """A call was not answered: the server or the way to it is gone, or slower than thought."""

    def __init__(self, slow: bool) -> None:
        super().__init__("slow" if slow else "gone")
        self.slow = slow
        """Whether its deadline ended it."""


class Pace:
    """How many bytes a call carries in one direction; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = FIRST_BYTES
        self.rate = 0.0
        """Bytes a second, of the last call."""

    @property
    def bytes(self) -> int:
        """Bytes of the next call."""
        with self._lock:
            return self._bytes

    def carried(self, count: int, seconds: float) -> None:
        """Learn from a call that carried so many bytes in so much time."""
        with self._lock:
            self.rate = count / max(seconds, 0.001)
            if count < self._bytes // 2:
                # The end of a message: its time is that of the way and not of the bytes.
                return
            # Growth is bounded: one call may be quick by chance, and a link that is cut every second
            # must not be tried with two seconds' worth after each success.
            fit = min(int(self.rate * PART_SECONDS), 2 * self._bytes)
            self._bytes = min(max(fit, LEAST_BYTES), MOST_BYTES)

    def lost(self, error: CallLost) -> None:
        """Learn from a call that was not answered."""
        with self._lock:
            self._bytes = max(LEAST_BYTES, self._bytes // (16 if error.slow else 2))

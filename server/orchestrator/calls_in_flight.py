"""How many calls one key may have in flight, and for how long the body of one is waited for.

A silo that is admitted may lie too: a call whose body never comes would hold a thread for good. So
each key has its own share, a call beyond it is refused when its headers are here, and a body that
does not come in time ends its call.

    MDW-719 a body that did not come in time    MDW-764 too many calls of one key at once
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Protocol

CALLS_PER_KEY: Final = 12
"""A node has one question for work, a heartbeat, and a few objects on their way; after a cut the
old connection's calls are still there for a while.
"""
BODY_SECONDS: Final = 60.0
"""For the body of a call; it shares its link with the objects."""
OBJECT_BODY_SECONDS: Final = 300.0
"""For a part of an update: a chunk of 5 MiB over 150 kbit/s."""


class Cancellable(Protocol):
    """A call that can be ended from outside."""

    def cancel(self) -> object:
        """End it."""


class CallsInFlight:
    """Counts each key's calls, and ends those whose body is late; safe to use from any thread."""

    def __init__(
        self, per_key: int = CALLS_PER_KEY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_key = per_key
        self._clock = clock
        self._lock = threading.Lock()
        self._count: Counter[bytes] = Counter()
        self._waiting: dict[object, tuple[float, Cancellable]] = {}

    def enter(self, key: bytes) -> bool:
        """Count a call of a key; False where it has its share already. Each True needs a `leave`."""
        with self._lock:
            if self._count[key] >= self._per_key:
                return False
            self._count[key] += 1
            return True

    def leave(self, key: bytes) -> None:
        """Note that a call of a key has ended."""
        with self._lock:
            self._count[key] -= 1
            if self._count[key] <= 0:
                del self._count[key]

    @contextlib.contextmanager
    def body(self, call: Cancellable, seconds: float) -> Iterator[None]:
        """End the call if this block, in which its body is read, takes longer."""
        mark = object()
        with self._lock:
            self._waiting[mark] = self._clock() + seconds, call
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(mark, None)

    def end_late_bodies(self) -> int:
        """End the calls whose body is late; return how many there were."""
        now = self._clock()
        with self._lock:
            late = [call for deadline, call in self._waiting.values() if deadline <= now]
        for call in late:
            call.cancel()
        return len(late)

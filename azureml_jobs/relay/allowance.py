"""How much somebody may take: connections by the minute, bytes by the second, so many at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST_NAMES: Final = 4096
"""Of which an allowance is remembered; the one that asked the longest ago is forgotten first."""

Clock = Callable[[], float]


class Allowance:
    """A rate with room for a burst: it fills by `per_second` up to `burst`, and each use takes."""

    def __init__(self, per_second: float, burst: float, clock: Clock) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def take(self, count: float = 1.0) -> bool:
        """Take so much where it is there; say whether it was."""
        self._fill()
        if self._left < count:
            return False
        self._left -= count
        return True

    def owe(self, count: float) -> float:
        """Take so much in any case; return for how many seconds to wait until it was there."""
        self._fill()
        self._left -= count
        return max(0.0, -self._left / self._per_second)

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now


class Allowances:
    """One allowance by the minute for each name, of which a bounded number is remembered."""

    def __init__(self, per_minute: float, clock: Clock, most: int = MOST_NAMES) -> None:
        """A name may take what a minute brings at once."""
        self._per_minute = per_minute
        self._clock = clock
        self._most = most
        self._by_name: OrderedDict[str, Allowance] = OrderedDict()

    def take(self, name: str, count: float = 1.0) -> bool:
        """Take of one name's where it is there; say whether it was."""
        found = self._by_name.get(name)
        if found is None:
            burst = max(1.0, self._per_minute)
            found = Allowance(self._per_minute / 60, burst, self._clock)
            self._by_name[name] = found
            while len(self._by_name) > self._most:
                self._by_name.popitem(last=False)
        self._by_name.move_to_end(name)
        return found.take(count)

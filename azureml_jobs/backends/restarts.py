"""How often a job that was killed is started again: with longer and longer pauses, and only so often in
a while.

What counts is the time and not the run: a job that is killed once a day is started again for years,
one that is killed the moment it starts (out of memory, say) is given up after some minutes, because
somebody has to look.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

FIRST_PAUSE: Final = 1.0
"""Seconds before the first restart; each further one of a while waits twice as long."""
LONGEST_PAUSE: Final = 60.0
MOST: Final = 5
"""Restarts within `WINDOW`; what is killed once more is not started again."""
WINDOW: Final = 600.0


@dataclass
class Restarts:
    """The restarts of one job; times in seconds of any clock that is never set back."""

    first_pause: float = FIRST_PAUSE
    longest_pause: float = LONGEST_PAUSE
    most: int = MOST
    window: float = WINDOW
    count: int = 0
    """All restarts so far."""
    _recent: deque[float] = field(default_factory=deque, repr=False)

    def pause(self, now: float) -> float | None:
        """Note a restart, and return the pause before it; None where it is not to be started again."""
        while self._recent and now - self._recent[0] > self.window:
            self._recent.popleft()
        already = len(self._recent)
        if already >= self.most:
            return None
        self._recent.append(now)
        self.count += 1
        return min(self.longest_pause, self.first_pause * 2.0**already)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain values."""
        return {
            "first_pause": self.first_pause,
            "longest_pause": self.longest_pause,
            "most": self.most,
            "window": self.window,
        }

    @staticmethod
    def from_json(raw: object) -> Restarts | None:
        """Return the rule that `to_json` wrote; None for none.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        if raw is None:
            return None
        if not isinstance(raw, dict):
            raise TypeError("a rule of restarts is a mapping")
        return Restarts(
            float(raw["first_pause"]),
            float(raw["longest_pause"]),
            int(raw["most"]),
            float(raw["window"]),
        )

"""How long a command waits between two questions: longer and longer, never at the same moment as
others, and as long as Azure itself asks for.

Resource Manager counts the calls of an identity in a subscription; a wait of a night must not use up
what its owner needs by day.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

GROWS: Final = 1.25
"""Each pause to the one before."""
LONGEST: Final = 2.0
"""Times the first one."""
JITTER: Final = 0.2
"""Of a pause, up and down: several commands that begin together do not stay together."""


@dataclass
class Pauses:
    """The pauses of one command, in seconds; `grows` is 1 where waiting costs nobody anything."""

    first: float
    grows: float = GROWS
    draw: Callable[[], float] = random.SystemRandom().random
    _next: float = 0.0

    def next(self, asked_for: float | None = None) -> float:
        """Return the next pause; where a service asked for one, no shorter."""
        pause = self._next or self.first
        self._next = min(pause * self.grows, self.first * LONGEST)
        if self.grows > 1:
            pause *= 1 + JITTER * (2 * self.draw() - 1)
        return max(pause, asked_for or 0.0)

    def begin_again(self) -> None:
        """Begin with the first pause: something has happened, and more may follow."""
        self._next = 0.0

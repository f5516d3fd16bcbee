"""A function that waits for an idle worker of the pool, and what becomes of it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from conf.errors import SiloError
from server.engines.pipe import Call

TRIES: Final = 2
"""Workers that may end over one call: the first may have ended for another reason."""


@dataclass(eq=False)
class WaitingCall:
    """A call, and the future of those who wait for it."""

    call: Call
    future: Future[Any] = field(default_factory=Future)
    _ended: int = 0

    def ended(self, how: str) -> bool:
        """Note that a worker ended over it; return whether another is to try.

        The last one gives the future SiloError MDW-317.
        """
        self._ended += 1
        if self._ended < TRIES:
            return True
        error = SiloError(
            "MDW-317",
            f"The worker processes that ran {self.call.function} ended: {how}.",
            "Try fewer simulation.workers, or simulation.workers=0, which runs it here.",
        )
        self.future.set_exception(error)
        return False

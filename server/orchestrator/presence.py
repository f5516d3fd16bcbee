"""Which silos of the open run are connected, and whether a round could close with them.

The round loop learns of a lost silo when the round closes, and of a lost quorum when the run ends.
Somebody who could start the silo again wants to hear of it at once, so this looks at the connections
beside the rounds; it decides nothing.

    MDW-412 fewer silos are connected than a round needs
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from server.observers.base import PresenceChange

log = logging.getLogger(__name__)


class Presence:
    """Watches one run's silos; `needed` of them are the quorum of a round.

    `tell` hears of each change, from the thread that calls `look`.
    """

    def __init__(
        self,
        silos: Collection[str],
        needed: int,
        tell: Callable[[PresenceChange], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._silos = frozenset(silos)
        self._needed = needed
        self._tell = tell
        self._clock = clock
        self._here: frozenset[str] | None = None
        self._gone: frozenset[str] = frozenset()
        self._lacking_since: float | None = None

    def look(self, connected: Collection[str]) -> None:
        """Take in who is connected now, and tell of what has changed."""
        here = self._silos.intersection(connected)
        before = here if self._here is None else self._here
        self._here = here
        gone = before - here
        back = here & self._gone
        self._gone = (self._gone | gone) - here
        quorum = self._changed_quorum(len(here))
        if not (gone or back or quorum):
            return
        missing = sorted(self._silos - here)
        self._log(gone, back, quorum, missing)
        self._tell(
            PresenceChange(sorted(gone), sorted(back), quorum, len(here), self._needed, missing)
        )

    def lacking(self) -> dict[str, Any] | None:
        """Return what there is to say while a quorum is lacking, as plain JSON; None otherwise."""
        if self._lacking_since is None or self._here is None:
            return None
        return {
            "needed": self._needed,
            "connected": len(self._here),
            "missing": sorted(self._silos - self._here),
            "since": f"{datetime.fromtimestamp(self._lacking_since, UTC):%Y-%m-%d %H:%M} UTC",
        }

    def _changed_quorum(self, here: int) -> str:
        lacking = here < self._needed
        if lacking == (self._lacking_since is not None):
            return ""
        self._lacking_since = self._clock() if lacking else None
        return "lost" if lacking else "back"

    def _log(
        self, gone: Collection[str], back: Collection[str], quorum: str, missing: list[str]
    ) -> None:
        for silo in sorted(gone):
            log.warning("%s is not connected any more", silo)
        for silo in sorted(back):
            log.info("%s is connected again", silo)
        if quorum == "lost":
            log.warning(
                "MDW-412: %d of the %d silos that a round needs are connected; missing: %s",
                len(self._silos) - len(missing),
                self._needed,
                ", ".join(missing),
            )
        elif quorum == "back":
            log.info("as many silos are connected again as a round needs")

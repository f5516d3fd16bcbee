"""What a silo deletes of a run: its last update, what its algorithm remembers; by hand or by age.

    updates    the last finished update, in the node's state folder
    states     what the algorithm remembers of a run, in storage of the silo's own

What the silo keeps of the ledger stays, with a line that says what was deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from client.node.journal import UpdateJournal
from client.node.state_store import AnotherProcess, SiloStateStore
from client.node.witness import LedgerRecord
from conf.errors import MeadowError
from conf.schema import SiloLifetimes

log = logging.getLogger(__name__)

UPDATES: Final = "updates"
STATES: Final = "states"
KINDS: Final = (UPDATES, STATES)
DAY: Final = 86400.0
LOOK_SECONDS: Final = 3600.0
"""Between two looks at what has outlived its lifetime."""


@dataclass(frozen=True)
class SiloFiles:
    """Where one silo keeps things; each may be missing."""

    journal: UpdateJournal | None = None
    states: SiloStateStore | None = None
    record: LedgerRecord | None = None

    def forget(self, run: str, kinds: Collection[str]) -> list[str]:
        """Delete some kinds of what is kept of a run, note it, and return what was deleted.

        Raises OSError, and MeadowError: MDW-343 where a process of the silo is running, which may
        need the state.
        """
        done = []
        if UPDATES in kinds and self.journal is not None:
            size = self.journal.forget(run)
            if size:
                done.append(f"{UPDATES}: 1 file, {size} bytes")
        if STATES in kinds and self.states is not None:
            files = self.states.forget(run)
            if files:
                done.append(f"{STATES}: {files} files")
        if done and self.record is not None:
            self.record.event(run, "forgotten", done)
        return done


class Lifetimes:
    """Deletes what has outlived its lifetime, an hour after the last look at the earliest."""

    def __init__(
        self,
        files: SiloFiles,
        lifetimes: SiloLifetimes,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._lifetimes = lifetimes
        self._clock = clock
        self._elapsed = elapsed
        self._look_at = 0.0

    def look(self) -> None:
        """Look, if it is time: while the silo waits for work.

        What can't be deleted is told, and tried again the next time.
        """
        if self._elapsed() < self._look_at:
            return
        self._look_at = self._elapsed() + LOOK_SECONDS
        try:
            self._expire()
        except (AnotherProcess, OSError, MeadowError) as error:
            log.warning("what has outlived its lifetime could not be deleted: %s", error)

    def _expire(self) -> None:
        days = self._lifetimes
        files = self._files
        if days.updates is not None and files.journal is not None:
            size = files.journal.forget(older_than=self._clock() - days.updates * DAY)
            if size:
                log.info("the last update has outlived its lifetime: %d bytes deleted", size)
        if days.states is None or files.states is None:
            return
        for run in files.states.expire(self._clock() - days.states * DAY):
            log.info("the states of the run %s have outlived their lifetime and are deleted", run)
            if files.record is not None:
                files.record.event(run, "forgotten", [f"{STATES}: lifetime"])

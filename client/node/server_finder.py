"""Which server a silo's node dials next, of all that its rendezvous names.

Only records count that an orchestrator of the silo's own CA has signed. Of those, one that rises
while the node watches is of a server that runs; no clock of another machine is asked. A record may
still be an old one, played again, so an address that does not answer, or shows a wrong certificate,
is left for a while and the next one is tried.

    MDW-730 no server found in time
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from azureml_jobs.rendezvous import OVER, Record, Rendezvous, SignedRecord, StaticRendezvous
from conf.errors import IdentityError, MeadowError

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 90.0
"""A record that has not risen for so long, while the node watched, is of a server that is gone."""
AVOID_SECONDS: Final = 10.0
"""An address that failed is dialled again after so long, or where there is no other."""
MOST_WARNINGS: Final = 100
"""Different reasons for which records were passed over; more are not told."""

Authorities = Callable[[], Sequence[x509.Certificate]]
"""Looks which CAs the silo trusts now: it may be given another while it runs."""


@dataclass
class _Watched:
    """What was seen of one start of a server; times are the node's own."""

    record: Record
    first_seen: float
    last_risen: float | None = None


class ServerFinder:
    """Says where to dial, and hears what became of it."""

    def __init__(
        self,
        place: Rendezvous,
        authorities: Authorities,
        federation: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`federation` is the silo's own, None where it was not told a name; `clock` in seconds."""
        self._place = place
        self._authorities = authorities
        self._federation = federation
        self._clock = clock
        self._watched: dict[tuple[int, str], _Watched] = {}
        self._failed: dict[str, float] = {}
        self._last_look: float | None = None
        self._passed_over: dict[str, str] = {}
        self._unreadable: MeadowError | None = None
        # The heartbeat asks beside the main thread.
        self._lock = threading.Lock()

    def __call__(self) -> str | None:
        """Return the address to dial now, None where no server is known.

        A rendezvous that can't be read now is asked again: a role takes minutes to hold.
        """
        if isinstance(self._place, StaticRendezvous):
            return self._place.address
        try:
            seen = self._place.seen()
        except MeadowError as error:
            self._note_unreadable(error)
            return None
        with self._lock:
            self._unreadable = None
            self._look(seen)
            now = self._clock()
            return self._next_of(self._candidates(now), now)

    def _next_of(self, records: Sequence[Record], now: float) -> str | None:
        """Return the first address that has not failed of late, or whose failure is the longest ago."""
        addresses = [record.address for record in records]
        for address in addresses:
            if now - self._failed.get(address, -AVOID_SECONDS) >= AVOID_SECONDS:
                return address
        return min(addresses, key=lambda one: self._failed[one], default=None)

    def failed(self, address: str) -> bool:
        """Hear that an address did not answer or can't be trusted; return whether to go on looking.

        A fixed address has no other in its place.
        """
        with self._lock:
            self._failed[address] = self._clock()
        return not isinstance(self._place, StaticRendezvous)

    def not_found(self, seconds: float) -> IdentityError:
        """Return the error of a silo that looked for so long, MDW-730: what was seen, what to do."""
        state, hint = self._state()
        return IdentityError("MDW-730", f"No server found in {seconds:.0f} s: {state}.", hint)

    def _state(self) -> tuple[str, str]:
        if isinstance(self._place, StaticRendezvous):
            return self._place.not_answering()
        with self._lock:
            last = max(self._watched.values(), key=lambda one: one.record.epoch, default=None)
            if last is None and self._passed_over:
                return next(iter(self._passed_over.values())), "Compare the CA's certificate."
        if self._unreadable is not None:
            return self._unreadable.message.rstrip("."), self._unreadable.hint
        if last is None:
            hint = "Start the orchestrator, or check that both name the same rendezvous."
            return "nothing was published", hint
        record = last.record
        when = f"{datetime.fromtimestamp(record.heartbeat, UTC):%Y-%m-%d %H:%M} UTC by its clock"
        state = f"the last heartbeat is of {record.address}, epoch {record.epoch}, {when}"
        if record.state == OVER:
            return f"{state}, and says that the federation is over", "Launch it again, or stop."
        return state, "Start it again; let this network reach its port."

    def _look(self, seen: Sequence[SignedRecord]) -> None:
        now = self._clock()
        if self._last_look is None or now - self._last_look > FRESH_SECONDS:
            # Nobody watched in between, so what has risen since says nothing about now.
            self._watched.clear()
        self._last_look = now
        authorities = self._authorities()
        for signed in seen:
            try:
                record = signed.checked(authorities, self._federation, datetime.now(UTC))
            except IdentityError as error:
                self._pass_over(signed, error)
                continue
            self._watch(record, now)

    def _watch(self, record: Record, now: float) -> None:
        watched = self._watched.setdefault((record.epoch, record.address), _Watched(record, now))
        if record.beat > watched.record.beat:
            watched.last_risen = now
            watched.record = record

    def _candidates(self, now: float) -> list[Record]:
        """Return the records to follow, the highest epoch first.

        Where some rise, those; else those that were seen too short a time to tell; else those that
        say `over`: a server that ends is still there for a moment, and says so itself.
        """
        rising = []
        unproven = []
        over = []
        for watched in self._watched.values():
            risen = watched.last_risen
            if watched.record.state == OVER:
                over.append(watched.record)
            elif risen is not None and now - risen <= FRESH_SECONDS:
                rising.append(watched.record)
            elif now - watched.first_seen <= FRESH_SECONDS:
                unproven.append(watched.record)
        best = rising or unproven or over
        return sorted(best, key=lambda record: record.epoch, reverse=True)

    def _note_unreadable(self, error: MeadowError) -> None:
        """Remember why the rendezvous can't be read, and say so where it is something new."""
        with self._lock:
            before = self._unreadable
            self._unreadable = error
        if before is None or before.message != error.message:
            log.warning("%s; asked again", error)

    def _pass_over(self, signed: SignedRecord, error: IdentityError) -> None:
        subject = f"{signed.record.address} {signed.record.epoch}"
        if subject in self._passed_over or len(self._passed_over) >= MOST_WARNINGS:
            return
        self._passed_over[subject] = error.message.rstrip(".")
        log.warning("%s", error)

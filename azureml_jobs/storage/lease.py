"""Who may write: the rules of a lease, over any store that writes over the version it read.

A lease is a small stored record: its owner, its epoch, how often it was renewed. Each taking counts
the epoch up. Whoever holds a lease of an earlier epoch has lost it, whatever its clock says, and
writes no more (fencing).

It can be taken where it is given up or the same owner's, where the process that holds it has
certainly ended, and where its holder does not renew it. No two machines' clocks are compared for
that: whoever wants it watches the record, and it has to stay the same for as long as a lease lasts.
Only time in which the watcher looks counts, so that its own pauses cost no holder its lease. A store
with a clock of its own, the one for all, may say instead how long the record has not changed.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Final, Protocol

from azureml_jobs.storage.base import Clock, Data, Lease, LeaseLost, StoreMissing
from conf.errors import CheckpointError
from conf.process_birth import has_ended, this_process
from conf.versions import Format, Raw

TRIES: Final = 5
"""How often a change is tried again when somebody else was faster."""


BETWEEN_LOOKS: Final = 2.0
"""Seconds that one look at a record proves at most: after a longer time the watcher was paused."""


def _to_two(raw: Raw) -> Raw:
    # A time by its holder's clock, with which nothing is compared: it changes with each renewal.
    return raw | {"beat": int(raw["expires"] * 1000), "seconds": 0.0, "process": ""}


FORMAT: Final = Format(
    "lease",
    2,
    damaged="MDW-517",
    fix="Make sure that no process writes there, then delete it.",
    migrations={1: _to_two},
)


class Versioned(Protocol):
    """A store in which a change can be made to depend on what was read before it."""

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """Return the bytes under a name and their version; raises StoreMissing."""

    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        """Write over the version that was read (None: nothing was there) and return True.

        Return False, with nothing changed, where it has another version by now.
        """

    def unchanged_for(self, name: str) -> float | None:
        """Return for how many seconds at least nobody has written a name, by the store's own clock;
        None where it has none that is the same for all.
        """


@dataclass
class _Watch:
    """A record of somebody else's: its version, when it was looked at, how long it was seen so."""

    version: str
    looked: float
    unchanged: float = 0.0


class Leases:
    """The leases of one store; `where` names it in errors.

    `clock` counts this process's seconds from some moment on.
    """

    def __init__(self, store: Versioned, where: str, clock: Clock) -> None:
        self._store = store
        self._where = where
        self._clock = clock
        self._watches: dict[str, _Watch] = {}

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        for _ in range(TRIES):
            last, version = self._read(name)
            if last is not None and version is not None:
                free = last.owner in ("", owner) or has_ended(last.process)
                if not (free or self._is_left(last, version, seconds)):
                    return None
            # The next epoch, also where the owner is the same: a server that was started again
            # fences
            # its former self, which may only have been frozen.
            epoch = 1 if last is None else last.epoch + 1
            lease = Lease(name, owner, epoch, 0, seconds, this_process())
            # Over the version that was read: of two that found it free, one writes and one looks
            # again.
            if self._write(lease, version):
                return lease
        # Others were faster each time, so one of them holds it.
        return None

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`; also after a pause, as long as nobody took it."""
        for _ in range(TRIES):
            # The epoch decides and no time: until another takes it, nobody else writes.
            version = self.check(lease)
            renewed = replace(lease, beat=lease.beat + 1, seconds=seconds)
            if self._write(renewed, version):
                return renewed
        raise CheckpointError(
            "MDW-515", f"The lease {lease.name} changed while it was renewed.", "Try again."
        )

    def release(self, lease: Lease) -> None:
        """See `Store`; the epoch stays on record, so that the next holder's is a later one."""
        with suppress(LeaseLost):
            version = self.check(lease)
            self._write(Lease(lease.name, "", lease.epoch, lease.beat + 1), version)

    def check(self, lease: Lease) -> str:
        """Return the version of a lease that is still held; raises LeaseLost.

        It says nothing about the next moment: whoever writes after it needs a lock that the taking
        of a lease needs too, or a write that depends on a version read before this check.
        """
        held, version = self._read(lease.name)
        if (
            held is not None
            and version is not None
            and (held.owner, held.epoch) == (lease.owner, lease.epoch)
        ):
            return version
        by = f"{held.owner} (epoch {held.epoch})" if held and held.owner else "nobody"
        raise LeaseLost(
            "MDW-516",
            f"{lease.owner} lost the lease {lease.name} (epoch {lease.epoch}); it is held by {by}.",
            "Only one process may write there: stop this one.",
        )

    def holder(self, name: str) -> Lease | None:
        """See `Store`."""
        held, _ = self._read(name)
        return held if held is not None and held.owner else None

    def _is_left(self, last: Lease, version: str, seconds: float) -> bool:
        """Return whether a lease of another's was not renewed for as long as it lasts."""
        lasts = last.seconds or seconds
        by_store = self._store.unchanged_for(_file(last.name))
        if by_store is not None:
            return by_store >= lasts
        now = self._clock()
        watch = self._watches.get(last.name)
        if watch is None or watch.version != version:
            self._watches[last.name] = _Watch(version, now)
            return False
        watch.unchanged += min(max(now - watch.looked, 0.0), BETWEEN_LOOKS)
        watch.looked = now
        return watch.unchanged >= lasts

    def _read(self, name: str) -> tuple[Lease | None, str | None]:
        try:
            data, version = self._store.read_versioned(_file(name))
        except StoreMissing:
            return None, None
        # Damaged, it is not taken as free: its holder may be writing.
        where = f"The lease {name} in {self._where}, {self._where}/{_file(name)},"
        return lease_of(data, name, where), version

    def _write(self, lease: Lease, version: str | None) -> bool:
        return self._store.write_if_version(_file(lease.name), lease_record(lease), version)


class Leased(ABC):
    """The part of a store that has to do with leases: derive from it, and be `Versioned`."""

    def __init__(self, where: str, clock: Clock) -> None:
        self._leases = Leases(self, where, clock)

    @abstractmethod
    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """See `Versioned`."""

    @abstractmethod
    def unchanged_for(self, name: str) -> float | None:
        """See `Versioned`."""

    @abstractmethod
    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        """See `Versioned`."""

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        return self._leases.acquire(name, owner, seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`."""
        return self._leases.renew(lease, seconds)

    def check(self, lease: Lease) -> None:
        """See `Store`."""
        self._leases.check(lease)

    def holder(self, name: str) -> Lease | None:
        """See `Store`."""
        return self._leases.holder(name)

    def release(self, lease: Lease) -> None:
        """See `Store`; the epoch stays on record."""
        self._leases.release(lease)


def _file(name: str) -> str:
    return f"{name}.lease"


def lease_record(lease: Lease) -> bytes:
    """Return a lease as it is stored."""
    return json.dumps(FORMAT.stamp | asdict(lease)).encode()


def lease_of(data: bytes, name: str, where: str) -> Lease:
    """Return a stored lease.

    Raises CheckpointError MDW-517 for a damaged one, MDW-505 for another version.
    """
    raw = FORMAT.loads(data, where)
    with FORMAT.reading(where):
        seconds = float(raw["seconds"])
        if not 0.0 <= seconds < math.inf:
            raise ValueError("it lasts no time")
        process = str(raw["process"])
        return Lease(name, str(raw["owner"]), int(raw["epoch"]), int(raw["beat"]), seconds, process)

"""Who may write: the rules of a lease, over any store that writes over the version it read.

A lease is a small stored record: its owner, its epoch, when it expires. It can be taken where it is
free, expired, or the same owner's; each taking counts the epoch up. Whoever holds a lease of an
earlier epoch has lost it, whatever its clock says, and writes no more (fencing).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import asdict
from typing import Final, Protocol

from azureml_jobs.storage.base import Clock, Data, Lease, LeaseLost, StoreMissing
from conf.errors import CheckpointError
from conf.versions import Format

TRIES: Final = 5
"""How often a change is tried again when somebody else was faster."""


FORMAT: Final = Format(
    "lease", 1, damaged="MDW-517", fix="Make sure that no process writes there, then delete it."
)


class Versioned(Protocol):
    """A store in which a change can be made to depend on what was read before it."""

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """Return the bytes under a name and their version; raises StoreMissing."""

    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        """Write over the version that was read (None: nothing was there) and return True.

        Return False, with nothing changed, where it has another version by now.
        """


class Leases:
    """The leases of one store; `where` names it in errors."""

    def __init__(self, store: Versioned, where: str, clock: Clock) -> None:
        self._store = store
        self._where = where
        self._clock = clock

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        for _ in range(TRIES):
            last, version = self._read(name)
            now = self._clock()
            if last is not None and last.owner not in ("", owner) and last.expires > now:
                return None
            # The next epoch, also where the owner is the same: a server that was started again
            # fences
            # its former self, which may only have been frozen.
            epoch = 1 if last is None else last.epoch + 1
            lease = Lease(name, owner, epoch, now + seconds)
            # Over the version that was read: of two that found it free, one writes and one looks
            # again.
            if self._write(lease, version):
                return lease
        # Others were faster each time, so one of them holds it.
        return None

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`; a lease that expired and that nobody took is renewed."""
        for _ in range(TRIES):
            # The epoch decides and not the expiry: until another takes it, nobody else writes.
            version = self.check(lease)
            renewed = Lease(lease.name, lease.owner, lease.epoch, self._clock() + seconds)
            if self._write(renewed, version):
                return renewed
        raise CheckpointError(
            "MDW-515", f"The lease {lease.name} changed while it was renewed.", "Try again."
        )

    def release(self, lease: Lease) -> None:
        """See `Store`; the epoch stays on record, so that the next holder's is a later one."""
        with suppress(LeaseLost):
            version = self.check(lease)
            self._write(Lease(lease.name, "", lease.epoch, 0.0), version)

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
    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        """See `Versioned`."""

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        return self._leases.acquire(name, owner, seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`; a lease that expired and that nobody took is renewed."""
        return self._leases.renew(lease, seconds)

    def check(self, lease: Lease) -> None:
        """See `Store`."""
        self._leases.check(lease)

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
        return Lease(name, str(raw["owner"]), int(raw["epoch"]), float(raw["expires"]))

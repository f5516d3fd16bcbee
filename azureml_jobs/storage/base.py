"""What must outlive a process: a small store of named bytes, in a folder or in a blob container.

Everything goes through four operations that a blob container has too: list a prefix, read, put if
absent (`If-None-Match: *`), replace whole. Large files are immutable and written once; a pointer
(`azureml_jobs.storage.pointer`) names the current one. A lease (`azureml_jobs.storage.lease`) decides which of two
orchestrators is the live one.

    MDW-510 no such name          MDW-513 disk full             MDW-516 the lease was lost
    MDW-511 not a valid name      MDW-514 may not write/read    MDW-517 not what was written
                                  MDW-515 the disk or storage failed
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from conf.errors import CheckpointError

Data = bytes | bytearray | memoryview
Names = list[str]
Clock = Callable[[], float]

NAME = re.compile(r"(?!.*\.(/|$))[A-Za-z0-9_][A-Za-z0-9_.=-]*(/[A-Za-z0-9_][A-Za-z0-9_.=-]*)*")
"""What names are made of: parts of letters, digits and `_ . = -`.

None begins or ends with a dot.
"""
LONGEST_NAME = 512


class StoreMissing(CheckpointError, KeyError):
    """Nothing is stored under that name (MDW-510)."""


class LeaseLost(CheckpointError):
    """Another owner took the lease over, so this one must write no more (MDW-516)."""


@dataclass(frozen=True)
class Lease:
    """The right to be the one live writer for as long as it is renewed.

    `epoch` counts the acquisitions: with the owner it says which holder this is. `beat` counts its
    renewals, of which the holder makes one in less than `seconds`. `process` is its name for
    `conf.process_birth`, empty where it has none.
    """

    name: str
    owner: str
    epoch: int
    beat: int = 0
    seconds: float = 0.0
    process: str = ""


class Store(Protocol):
    """Named bytes that last. Names are `NAME`s of at most `LONGEST_NAME` characters."""

    def list(self, prefix: str = "") -> Names:
        """Return the names that start with `prefix`, sorted."""

    def read(self, name: str) -> bytes:
        """Return the bytes under a name; raises StoreMissing."""

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """Store under a new name and return True; where it is taken change nothing: False.

        With `under`, raises LeaseLost and writes nothing unless that lease is still held.
        """

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """Store under a name, new or not; a reader sees the old bytes or the new ones, no mixture.

        With `under`, raises LeaseLost and writes nothing unless that lease is still held.
        """

    def delete(self, name: str) -> None:
        """Remove a name; nothing happens where it is absent."""

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """Take a lease that is free or already `owner`'s, with the next epoch.

        Free is also one whose process has certainly ended, and one that its holder does not renew:
        to see that takes a call every second or so, for as long as a lease lasts. None where another
        holds it.
        """

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Return the lease with another beat and the same epoch.

        Raises LeaseLost where it was taken over.
        """

    def check(self, lease: Lease) -> None:
        """Raise LeaseLost where the lease was taken over."""

    def holder(self, name: str) -> Lease | None:
        """Return a lease as it is on record; None where nobody holds it."""

    def release(self, lease: Lease) -> None:
        """Give the lease up, so that the next `acquire` need not wait.

        Nothing happens where it was lost.
        """


def is_name(name: str) -> bool:
    """Return whether something can be stored under that name."""
    return len(name) <= LONGEST_NAME and NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """Return a name that can be stored under; raises CheckpointError MDW-511."""
    if not is_name(name):
        raise _invalid(name)
    return name


def too_large(where: str, size: int, most: int) -> CheckpointError:
    """Return the error for what is larger than its place allows, MDW-517."""
    hint = "Remove it: nothing that Meadow writes there is so large."
    return CheckpointError("MDW-517", f"{where} has {size:,} bytes, of {most:,} allowed.", hint)


def checked_prefix(prefix: str) -> str:
    """Return what names may start with; raises CheckpointError MDW-511."""
    if prefix and not NAME.fullmatch(prefix.rstrip("/.")):
        raise _invalid(prefix)
    return prefix


def _invalid(name: str) -> CheckpointError:
    hint = (
        "Use letters, digits and _ . = - in parts separated by /, none of which starts with a dot."
    )
    return CheckpointError("MDW-511", f"{name!r} can't name a stored file.", hint)

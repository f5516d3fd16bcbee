"""A part of a store, as a store of its own."""

from __future__ import annotations

from dataclasses import dataclass

from azureml_jobs.storage.base import Data, Lease, Names, Store


@dataclass(frozen=True)
class PrefixStore:
    """The part of a store under a prefix, as the store of one run; leases belong to the whole.

    With `lease`, all that is put or replaced through it is written under that lease: nothing, once
    another has taken it.
    """

    whole: Store
    prefix: str = ""  # ends with a slash, or is empty: the whole
    lease: Lease | None = None

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        return [name.removeprefix(self.prefix) for name in self.whole.list(self.prefix + prefix)]

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return self.whole.read(self.prefix + name)

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """See `Store`."""
        return self.whole.put_if_absent(self.prefix + name, data, under=under or self.lease)

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`."""
        self.whole.replace(self.prefix + name, data, under=under or self.lease)

    def delete(self, name: str) -> None:
        """See `Store`."""
        self.whole.delete(self.prefix + name)

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        return self.whole.acquire(name, owner, seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`."""
        return self.whole.renew(lease, seconds)

    def check(self, lease: Lease) -> None:
        """See `Store`."""
        self.whole.check(lease)

    def holder(self, name: str) -> Lease | None:
        """See `Store`."""
        return self.whole.holder(name)

    def release(self, lease: Lease) -> None:
        """See `Store`."""
        self.whole.release(lease)

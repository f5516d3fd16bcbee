"""One store whose parts lie in places with a right each: who may ask, who may admit, who may read.

To its users it is one store; where a name lies follows from how it begins. Each place is a folder or
a container of its own, so that whoever may write to one needs no right at another:

    place       holds                                  written by            read by
    queue       requests, cancellations, states of jobs  who may ask          the orchestrator
    admissions  admitted and revoked keys              who may admit         the orchestrator
    results     how runs ended, their files, status    the orchestrator      who may read results
    state       lease, checkpoints, ledger segments    the orchestrator      the orchestrator

Nothing that is read from a place of another's is more than a name and some bytes: what it says is
held to the schema, and an admission counts by the CA's signature alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from azureml_jobs.storage.base import Data, Lease, Names, Store

QUEUE: Final = "queue"
ADMISSIONS: Final = "admissions"
RESULTS: Final = "results"
PLACES: Final = (QUEUE, ADMISSIONS, RESULTS)
"""The places beside the orchestrator's own."""
LARGEST: Final = {QUEUE: 4 << 20, ADMISSIONS: 64 << 10}
"""Bytes of one entry of a place that others write to: a configuration, and a certificate."""

_ROUTES: Final = {
    "queue/requests/": (QUEUE, "requests/"),
    "queue/cancelled/": (QUEUE, "cancelled/"),
    "queue/states/": (QUEUE, "states/"),
    "keys/": (ADMISSIONS, ""),
    "queue/begun/": (RESULTS, "begun/"),
    "queue/ended/": (RESULTS, "ended/"),
    "results/": (RESULTS, "runs/"),
    "orchestrator.json": (RESULTS, "orchestrator.json"),
    "store.json": (RESULTS, "store.json"),
}
"""How a name begins: its place, and how it begins there."""

OpenPlace = Callable[[str], Store]


def container_of(store: str, place: str) -> str:
    """Return the address of the container of one right, beside that of the store's own.

    `https://ACCOUNT.blob.core.windows.net/fl/PREFIX` has its queue in `fl-queue/PREFIX`: roles are
    given at a container, and not at a prefix.
    """
    account, container, *prefix = store.removeprefix("https://").rstrip("/").split("/", 2)
    return "/".join([f"https://{account}", f"{container}-{place}", *prefix])


@dataclass(frozen=True)
class StoreOfRights:
    """See the module; `state` is the orchestrator's own, and holds the leases of the whole."""

    state: Store
    queue: Store
    admissions: Store
    results: Store

    @staticmethod
    def opened(state: Store, place: OpenPlace) -> StoreOfRights:
        """Return the store whose other places `place` opens by their names."""
        return StoreOfRights(state, place(QUEUE), place(ADMISSIONS), place(RESULTS))

    def list(self, prefix: str = "") -> Names:
        """See `Store`; only the places that can have such names are asked."""
        found = []
        for begins, (place, inside) in _ROUTES.items():
            if prefix.startswith(begins):
                rest = prefix.removeprefix(begins)
                return sorted(
                    begins + n.removeprefix(inside) for n in self._at(place, inside + rest)
                )
            if begins.startswith(prefix):
                found += [begins + n.removeprefix(inside) for n in self._at(place, inside)]
        found += [name for name in self.state.list(prefix) if _route(name) is None]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """See `Store`."""
        store, inside = self._where(name)
        return store.read(inside)

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """See `Store`."""
        store, inside = self._where(name)
        return store.put_if_absent(inside, data, under=self._fence(store, under))

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`."""
        store, inside = self._where(name)
        store.replace(inside, data, under=self._fence(store, under))

    def delete(self, name: str) -> None:
        """See `Store`."""
        store, inside = self._where(name)
        store.delete(inside)

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        return self.state.acquire(name, owner, seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`."""
        return self.state.renew(lease, seconds)

    def holder(self, name: str) -> Lease | None:
        """See `Store`."""
        return self.state.holder(name)

    def release(self, lease: Lease) -> None:
        """See `Store`."""
        self.state.release(lease)

    def check(self, lease: Lease) -> None:
        """See `Store`."""
        self.state.check(lease)

    def _at(self, place: str, prefix: str) -> Names:
        store: Store = getattr(self, place)
        return store.list(prefix)

    def _where(self, name: str) -> tuple[Store, str]:
        route = _route(name)
        if route is None:
            return self.state, name
        begins, place, inside = route
        store: Store = getattr(self, place)
        return store, inside + name.removeprefix(begins)

    def _fence(self, store: Store, under: Lease | None) -> Lease | None:
        """Return the lease for a write to a place, which knows only its own.

        Another place is written after a look at the lease: what is written there is the last word
        on a run or a line of status, which a successor writes anew.
        """
        if under is None or store is self.state:
            return under
        self.state.check(under)
        return None


def _route(name: str) -> tuple[str, str, str] | None:
    for begins, (place, inside) in _ROUTES.items():
        if name.startswith(begins):
            return begins, place, inside
    return None

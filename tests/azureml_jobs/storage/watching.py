"""Taking over a lease as a process does that watches it: a look after a look, by a clock of its own."""

from __future__ import annotations

from azureml_jobs.storage.base import Lease, Store
from azureml_jobs.storage.lease import Leases


class Clock:
    """Seconds that pass where they are made to: by `step` with each look at it."""

    def __init__(self, now: float = 1000.0, step: float = 0.0) -> None:
        self.now = now
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def taken_over(
    store: Store | Leases, name: str, owner: str, seconds: float, clock: Clock | None = None
) -> Lease:
    """Watch a lease that nobody renews, every second, until it is taken; it must not come too soon."""
    looks = 0
    while (lease := store.acquire(name, owner, seconds)) is None:
        looks += 1
        assert looks < 500, "it was never free"
        if clock is not None:
            clock.now += 1
    return lease

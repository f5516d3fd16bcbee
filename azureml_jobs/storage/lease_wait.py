"""Waiting for a lease whose holder may have died: until it is free, or its holder is seen alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from azureml_jobs.storage.base import Clock, Lease, Store

POLL_SECONDS: Final = 0.5


def waited_for(
    store: Store,
    name: str,
    owner: str,
    seconds: float,
    patience: float,
    sleep: Callable[[float], object] = time.sleep,
    clock: Clock = time.monotonic,
) -> Lease | None:
    """Take a lease of `seconds`, and wait for it while nothing shows that its holder lives.

    None where the holder renews it when `patience` (seconds) is over: before that it may be about
    to give it up; and where `sleep` returns True, because nobody waits any more. Raises
    CheckpointError.
    """
    began = clock()
    seen = None
    while (lease := store.acquire(name, owner, seconds)) is None:
        now = store.holder(name)
        # A sign of life is a change while this one watches, whatever time it bears.
        alive = seen is not None and now is not None and now != seen
        if alive and clock() - began > patience:
            return None
        seen = now
        if sleep(min(POLL_SECONDS, max(seconds / 4, 0.01))) is True:
            return None
    return lease

"""Work on large arrays, on every core that this process may use.

For what waits for nothing else and lets go of Python's lock: digests, and numpy on whole arrays. The
threads end with the call, since a process may be forked later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

A = TypeVar("A")
B = TypeVar("B")

WORTH_THREADS: Final = 16 * 2**20
"""Bytes from which on a thread is worth its start."""
MOST_THREADS: Final = 4
"""More of them wait for memory and not for a core."""


def on_all_cores(work: Callable[[A], B], items: Sequence[A], size: int) -> list[B]:
    """Return what `work` makes of each item, in their order; all of them are `size` bytes."""
    threads = min(_cores(), MOST_THREADS, len(items))
    if size < WORTH_THREADS or threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, thread_name_prefix="cores") as pool:
        return list(pool.map(work, items))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1

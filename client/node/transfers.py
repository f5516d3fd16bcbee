"""Several transfers of objects side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

OBJECTS_AT_ONCE: Final = 2
"""One is on the wire while the other is signed and copied."""

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield the results of a few at a time, in no order; the first failure stops the rest."""
    running = set[Future[B]]()
    pool = ThreadPoolExecutor(OBJECTS_AT_ONCE, thread_name_prefix="objects")
    try:
        for item in items:
            running.add(pool.submit(work, item))
            if len(running) >= 2 * OBJECTS_AT_ONCE:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        yield from (one.result() for one in running)
    finally:
        # Without waiting: a call that is being made again would hold up a process that was told to
        # end.
        pool.shutdown(wait=False, cancel_futures=True)

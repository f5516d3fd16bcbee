"""A fork server that is a copy of this process, so that torch is imported once for all of them.

The standard library starts its fork server as a new Python, which imports torch and Flower a second
time: more CPU seconds than everything else before the first round. A process of our own (`meadow
simulate`) has just imported both and does nothing else yet, so it may be copied as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

from server.engines.worker import start_fork_server


def fork_from_here(app_module: str) -> bool:
    """Start the fork server as a copy of this process; return whether it was.

    Only where this process has one thread: another one may hold a lock, which nobody would release
    in the copy. Not on macOS, whose libraries do not survive a fork. Where it is not done, the pool
    starts the standard library's.
    """
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return False
    # It is started by the same call, and has to be a new Python.
    resource_tracker.ensure_running()
    with _copied():
        start_fork_server(app_module)
    return True


@contextlib.contextmanager
def _copied() -> Iterator[None]:
    """Let the fork server begin as a copy of this process where a new Python would be started."""
    started_anew = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]  # typed for a path and its arguments
    try:
        yield
    finally:
        util.spawnv_passfds = started_anew


def _fork(path: object, arguments: object, descriptors: Sequence[int]) -> int:
    """Return the copy's process id; the copy never returns."""
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        # As where a new Python is started. Above all the writing end of the parent's pipe: with it
        # open here, the parent's end would never be seen.
        _close_all_but([0, 1, 2, *descriptors])
        # It is closed, too; each worker gets its own.
        resource_tracker._resource_tracker._fd = None  # type: ignore[attr-defined]  # a private name
        # The lock is held while a fork server starts, and nobody releases it in the copy: a worker
        # that starts processes of its own would wait for it.
        forkserver._forkserver._lock = threading.Lock()  # type: ignore[attr-defined]
        # The listener and the pipe that tells of the parent's end; Python 3.14 passes a key too.
        listener, alive, *key = descriptors
        more: dict[str, Any] = {"authkey_r": key[0]} if key else {}
        forkserver.main(listener, alive, [], **more)
    except SystemExit:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def _close_all_but(kept: Sequence[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            # One of them is that of the listing itself, which is closed by now.
            with contextlib.suppress(OSError):
                os.close(int(name))

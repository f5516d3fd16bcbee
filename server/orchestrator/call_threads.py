"""Threads for calls, as many as the admitted keys need: the limit follows the list of keys.

`ThreadPoolExecutor` fixes its number at its start. A federation grows: silos are admitted while the
server runs, and with the threads of the first hour the later ones would starve.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

T = TypeVar("T")

IDLE_SECONDS: Final = 30.0
"""How long a thread without work stays: a burst leaves no threads behind for good."""


class CallThreads(Executor):
    """Runs each task in a thread; at most `limit` at once, which may be changed at any time.

    A thread is begun where a task finds none idle; a task beyond the limit waits for the next that
    is free, in order.
    """

    def __init__(self, limit: int, name: str = "calls") -> None:
        self._lock = threading.Condition()
        self._limit = limit
        self._name = name
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._idle = 0
        self._begun = 0
        self._number = 0
        self._closed = False

    @property
    def limit(self) -> int:
        """Return how many tasks run at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._lock:
            self._limit = limit
            for _ in range(len(self._tasks)):
                self._begin_if_needed()

    @property
    def threads(self) -> int:
        """Return how many threads there are now."""
        with self._lock:
            return self._begun

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a thread and return its future.

        Raises RuntimeError after `shutdown`.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("no tasks after shutdown")
            self._tasks.append((future, lambda: fn(*args, **kwargs)))
            self._begin_if_needed()
            self._lock.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; what waits is cancelled if asked, and what runs is waited for."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                for future, _ in self._tasks:
                    future.cancel()
                self._tasks.clear()
            self._lock.notify_all()
            while wait and self._begun:
                self._lock.wait()

    def _begin_if_needed(self) -> None:
        """Begin a thread where the tasks are more than the idle threads; holds the lock."""
        if len(self._tasks) <= self._idle or self._begun >= self._limit:
            return
        self._begun += 1
        self._number += 1
        name = f"{self._name}-{self._number}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            future, work = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # the future tells it, as in every executor
                future.set_exception(error)
            else:
                future.set_result(result)
            # Or else the last call's request would stay in memory until the next one.
            del task, future, work

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Return the next task, None where this thread has to end."""
        with self._lock:
            self._idle += 1
            try:
                # A lower limit ends threads as they become free.
                while not self._tasks and not self._closed and self._begun <= self._limit:
                    if not self._lock.wait(IDLE_SECONDS):
                        break
                if self._tasks and self._begun <= self._limit:
                    return self._tasks.popleft()
                self._begun -= 1
                self._lock.notify_all()
                return None
            finally:
                self._idle -= 1

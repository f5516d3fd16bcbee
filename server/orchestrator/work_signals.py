"""Who waits for work is told of its own alone: one signal for all would wake hundreds for each."""

from __future__ import annotations

import threading


class WorkSignals:
    """A signal a node, all under one lock, which the caller of each method holds."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._of: dict[int, threading.Condition] = {}

    def wait(self, node: int, seconds: float) -> None:
        """Wait until the node is told that there is work, or for some seconds."""
        self._of.setdefault(node, threading.Condition(self._lock)).wait(seconds)

    def tell(self, node: int) -> None:
        """Wake whoever waits for this node's work."""
        waiting = self._of.get(node)
        if waiting is not None:
            waiting.notify_all()

    def tell_all(self) -> None:
        """Wake everybody who waits for work."""
        for waiting in self._of.values():
            waiting.notify_all()

"""Processes that use one key at the same time: a copied key file, or a job that its scheduler started
twice.

One process answers for a silo: the one that signed on last, and once that one is silent for its
patience, whichever calls. Work is given to that one alone, or each of them would train every round,
and whose answer counts would be a race. A silo that was started again is no twin: its former
process never calls again.

    MDW-362 two processes use the key of one silo
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from typing import Final

from conf.running_clock import Clock
from server.run.absence import TWINS

log = logging.getLogger(__name__)

TOLD_SECONDS: Final = 600.0
"""Between two lines in the log about the same silo."""


@dataclass
class _Holder:
    """The process that answers for one node."""

    process: str
    peer: str
    heard: float
    twin_heard: float = -math.inf


class Twins:
    """Which process answers for each node; safe to use from any thread."""

    def __init__(self, clock: Clock, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._lock = threading.Lock()
        self._holders: dict[int, _Holder] = {}
        # Kept apart from the holders: two processes that take turns are still told of once.
        self._told: dict[int, float] = {}

    def signed_on(self, node: int, process: str, peer: str) -> None:
        """Note that a process signs on for a node: from now on it answers for it."""
        with self._lock:
            before = self._holders.get(node)
            if before is None or before.process != process:
                self._holders[node] = _Holder(process, peer, self._clock())

    def answers(self, node: int, silo: str, process: str, peer: str) -> bool:
        """Return whether a process that calls answers for a node; a twin is named in the log."""
        with self._lock:
            now = self._clock()
            holder = self._holders.get(node)
            if holder is None or now - holder.heard > self._patience:
                holder = self._holders[node] = _Holder(process, peer, now)
            if holder.process == process:
                holder.heard = now
                holder.peer = peer
                return True
            holder.twin_heard = now
            tells = now - self._told.get(node, -math.inf) > TOLD_SECONDS
            if tells:
                self._told[node] = now
        if tells:
            log.warning(
                "%s: two processes use the key of %s, from %s and from %s: only the one from"
                " %s is given work; end one of them",
                *(TWINS, silo, holder.peer, peer, holder.peer),
            )
        return False

    def left(self, node: int, process: str) -> bool:
        """Note that a process signs off; return whether it was the one that answers."""
        with self._lock:
            holder = self._holders.get(node)
            if holder is not None and holder.process != process:
                return False
            self._holders.pop(node, None)
            return True

    def nodes(self) -> list[int]:
        """Return the nodes of which a twin was heard within the patience."""
        with self._lock:
            since = self._clock() - self._patience
            return [node for node, one in self._holders.items() if one.twin_heard > since]

"""The silos' nodes: whose they are, and until when each counts as being there.

A node's id is derived from its key, so that a restarted orchestrator knows every node by the same
id.
"""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass
from typing import Final

from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_MAX_INTERVAL,
    HEARTBEAT_MIN_INTERVAL,
    HEARTBEAT_PATIENCE,
)

from conf.running_clock import RunningClock

DEFAULT_INTERVAL: Final = float(HEARTBEAT_DEFAULT_INTERVAL)
"""Seconds between two heartbeats of a node that has not said its own interval (Flower's default).
"""
PATIENCE: Final = float(HEARTBEAT_PATIENCE)
"""Intervals without a sign of life after which a node counts as gone (Flower's)."""


def node_id_of(public_key: bytes) -> int:
    """Return the node id of a key (PEM): the same in every orchestrator; 62 bits, since records
    hold signed integers.

    0 is nobody and 1 is Flower's name for the server, so ids start above them.
    """
    return (int.from_bytes(hashlib.sha256(public_key).digest()[:8], "big") >> 2) + 2


def is_interval(seconds: float) -> bool:
    """Return whether a node may declare such a heartbeat interval: Flower's bounds, which nan is
    not within.
    """
    return HEARTBEAT_MIN_INTERVAL <= seconds <= HEARTBEAT_MAX_INTERVAL


@dataclass
class NodeEntry:
    """One admitted key's node."""

    id: int
    silo: str
    own: bool = False
    """Whether it is Meadow's own kind of node, as its latest call said."""
    interval: float = DEFAULT_INTERVAL
    """Seconds between two of its heartbeats."""
    online_until: float = -math.inf
    """Seconds of the table's clock."""
    question: int = 0
    """The number of its latest question for work; an earlier one that still waits gives way."""


class NodeTable:
    """The nodes of all admitted keys, by id; safe to use from any thread.

    By `clock`, a pause of this process costs no node its patience; after one, each node that was
    there has its whole patience once more, because it has to find its way back first.
    """

    def __init__(self, clock: RunningClock | None = None) -> None:
        self._clock = clock or RunningClock()
        self._resumed = self._clock.resumed
        self._lock = threading.Lock()
        self._nodes: dict[int, NodeEntry] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def admit(self, public_key: bytes, silo: str) -> int:
        """Add a key's node, if it is not there yet, and return its id."""
        node = node_id_of(public_key)
        with self._lock:
            self._nodes.setdefault(node, NodeEntry(node, silo))
        return node

    def expel(self, public_key: bytes) -> None:
        """Forget a key's node; the key may be admitted again."""
        with self._lock:
            self._nodes.pop(node_id_of(public_key), None)

    def get(self, node: int) -> NodeEntry | None:
        """Return a node's entry, None where its key is not admitted."""
        with self._lock:
            return self._nodes.get(node)

    def entries(self) -> list[NodeEntry]:
        """Return all entries, in no order."""
        with self._lock:
            return list(self._nodes.values())

    def heard_from(self, node: int, interval: float | None = None, own: bool | None = None) -> bool:
        """Note that a node is alive, with the interval and the kind that it said; False where it is
        not admitted.
        """
        with self._lock:
            entry = self._nodes.get(node)
            if entry is None:
                return False
            if interval is not None:
                entry.interval = interval
            if own is not None:
                entry.own = own
            entry.online_until = self._now() + PATIENCE * entry.interval
            return True

    def left(self, node: int) -> None:
        """Note that a node has signed off."""
        with self._lock:
            entry = self._nodes.get(node)
            if entry is not None:
                entry.online_until = self._now()

    def is_online(self, node: int) -> bool:
        """Return whether a node has been heard from within its patience."""
        with self._lock:
            entry = self._nodes.get(node)
            return entry is not None and entry.online_until > self._now()

    def is_own(self, node: int) -> bool:
        """Return whether a node is Meadow's own kind."""
        entry = self.get(node)
        return entry is not None and entry.own

    def _now(self) -> float:
        """Return the time, after the nodes have been given their grace where this process stood
        still; the caller holds the lock.
        """
        now = self._clock()
        if self._clock.resumed != self._resumed:
            self._resumed = self._clock.resumed
            for entry in self._nodes.values():
                if entry.online_until > self._resumed:
                    entry.online_until = self._resumed + PATIENCE * entry.interval
        return now

"""How fast each node's transfer goes, and how much of it is left: for those who look on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

DOWN: Final = "down"
"""The silo receives."""
UP: Final = "up"
"""The silo sends."""
WORTH_TELLING: Final = 3.0
"""Seconds that a transfer takes before it is told: most are over sooner."""
STALLED: Final = 15.0
"""Seconds without a call after which a transfer is said to stand still."""
FORGOTTEN: Final = 600.0
"""Seconds without a call after which nothing is said of it any more."""


@dataclass
class _Transfer:
    direction: str
    began: float
    last: float
    moved: int = 0
    """Bytes since it began, those of the last answer not included: they are still on their way."""
    on_its_way: int = 0
    left: int = 0


class TransferProgress:
    """The transfers in progress by node; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[int, _Transfer] = {}

    def moved(self, node: int, direction: str, count: int, left: int, now: float) -> None:
        """Note a call that carried `count` bytes, after which the node says that `left` are left."""
        with self._lock:
            known = self._of.get(node)
            if known is None or known.direction != direction or now - known.last > FORGOTTEN:
                known = self._of[node] = _Transfer(direction, now, now)
            elif direction == UP:
                known.moved += count
            known.moved += known.on_its_way
            known.on_its_way = count if direction == DOWN else 0
            known.left = max(0, left)
            known.last = now
            if not left:
                del self._of[node]

    def ended(self, node: int) -> None:
        """Note that a node has no transfer in progress."""
        with self._lock:
            self._of.pop(node, None)

    def told(self, now: float) -> dict[int, dict[str, int | str]]:
        """Return what is worth telling by node.

        `direction`; `left`: bytes; `rate`: bytes a second since it began; `still`: seconds since
        the last call where that is long, else 0.
        """
        with self._lock:
            return {
                node: {
                    "direction": one.direction,
                    "left": one.left,
                    "rate": round(one.moved / max(one.last - one.began, 0.001)),
                    "still": round(now - one.last) if now - one.last > STALLED else 0,
                }
                for node, one in self._of.items()
                if now - one.began >= WORTH_TELLING and now - one.last < FORGOTTEN
            }

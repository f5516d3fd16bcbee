"""How often a silo may be given one instruction: not for ever, where it ends the process each time."""

from __future__ import annotations

from collections import Counter
from typing import Final

MOST: Final = 3
"""Processes of one silo that may end one after another over the same instruction; as with the
pool's workers.
"""


class Deliveries:
    """Counts by node and content (the object id of an instruction's records), so that a copy counts
    as the same.

    What was handed back (a process that was told to end) or never arrived counts as not given. One
    that was lost with its node is in doubt until the node is heard of again: the process that had it
    may have died, or lost its connection and live on.
    """

    def __init__(self) -> None:
        self._given: Counter[tuple[int, str]] = Counter()
        self._in_doubt: dict[int, Counter[str]] = {}

    def given(self, node: int, content: str) -> None:
        """Count a delivery."""
        self._given[node, content] += 1

    def taken_back(self, node: int, content: str) -> None:
        """Count a delivery no more."""
        self._given[node, content] -= 1

    def answered(self, node: int, content: str) -> None:
        """Begin anew with a content that was answered, by the node or in its place."""
        self._given.pop((node, content), None)

    def lost(self, node: int, content: str) -> None:
        """Note that a node has gone with this content in hand."""
        self._in_doubt.setdefault(node, Counter())[content] += 1

    def lives(self, node: int) -> None:
        """Count what a node was lost with no more: the same process asks for work again."""
        for content, times in self._in_doubt.pop(node, Counter()).items():
            self._given[node, content] -= times

    def started(self, node: int) -> None:
        """Note that another process of a node has started: the one before has died."""
        self._in_doubt.pop(node, None)

    def exhausted(self, node: int, content: str) -> bool:
        """Say whether a node has been given this content as often as it may."""
        return self._given[node, content] >= MOST

    def forget(self) -> None:
        """Begin anew, with another run."""
        self._given.clear()
        self._in_doubt.clear()


def reason(silo: str) -> str:
    """Return why such a silo counts as failed, in words for the result and the log."""
    return (
        f"MDW-334: {silo} ended or lost its connection {MOST} times with this instruction in hand and is not asked"
        " again. Look at the last lines of its job's log, and at its memory."
    )

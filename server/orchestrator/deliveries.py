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

    What was handed back (a process that was told to end) or never arrived counts as not given.
    """

    def __init__(self) -> None:
        self._given: Counter[tuple[int, str]] = Counter()

    def given(self, node: int, content: str) -> None:
        """Count a delivery."""
        self._given[node, content] += 1

    def taken_back(self, node: int, content: str) -> None:
        """Count a delivery no more."""
        self._given[node, content] -= 1

    def answered(self, node: int, content: str) -> None:
        """Begin anew with a content that was answered, by the node or in its place."""
        self._given.pop((node, content), None)

    def exhausted(self, node: int, content: str) -> bool:
        """Say whether a node has been given this content as often as it may."""
        return self._given[node, content] >= MOST

    def forget(self) -> None:
        """Begin anew, with another run."""
        self._given.clear()


def reason(silo: str) -> str:
    """Return why such a silo counts as failed, in words for the result and the log."""
    return (
        f"MDW-334: {silo} ended or lost its connection {MOST} times with this instruction in hand and is not asked"
        " again. Look at the last lines of its job's log, and at its memory."
    )

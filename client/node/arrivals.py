"""What has arrived of a message that a silo receives in parts, and what is missing of it.

MDW-650 a range that can't be one of the message    MDW-651 an object that is not what its name says
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from conf.errors import SiloError, WireError
from strategies.wire.frames import Buffer, joined
from strategies.wire.transfer_calls import Part

LARGEST: Final = 16 * 2**30
"""Bytes of one message, where nobody says less."""
KEPT_BYTES: Final = 2 * 2**30
"""Of the objects that are kept of the last large message."""
LARGE: Final = 64 * 2**10
"""Bytes of a message from which on its objects take the place of those kept before."""


def too_large(size: int, most: int) -> SiloError:
    """Return the error for a message that this silo does not take (MDW-351)."""
    return SiloError(
        "MDW-351",
        f"An instruction of {size} bytes is more than the {most} that this silo takes.",
        "Ask for a smaller model, or have the silo's owner raise policy.message_mib_at_most.",
        {"bytes": size, "most": most},
    )


def checked(id: str, content: Buffer) -> Buffer:
    """Return an object whose digest is its name; raises WireError MDW-651."""
    if hashlib.sha256(content).hexdigest() != id:
        raise WireError(
            "MDW-651",
            f"The object {id[:12]} is complete and has another digest.",
            "The server's code or memory is damaged.",
        )
    return content


def _misfit(what: str) -> WireError:
    hint = "Run the same version of Meadow on both sides."
    return WireError("MDW-650", f"A range that can't be one of a message: {what}.", hint)


class Arrivals:
    """What has arrived of the message in progress, and the objects of the last large one."""

    def __init__(self, most: int = LARGEST) -> None:
        """`most` bytes may arrive of one message."""
        self._most = most
        self._said = 0
        """The sum of the sizes, before any of the bytes is taken."""
        self._ids: frozenset[str] = frozenset()
        """Of the message's objects."""
        self._kept: dict[str, Buffer] = {}
        self._whole: dict[str, Buffer] = {}
        """Objects whose digest is their name, as are those that are kept: what one server calls
        something is nothing to another, and an owner's counts go by the names."""
        self._parts: dict[str, bytearray] = {}
        self._sizes: dict[str, int] = {}

    def begin(self, ids: Sequence[str]) -> None:
        """Begin a message, or continue one that was interrupted: what it has not is forgotten."""
        self._ids = frozenset(ids)
        self._whole = {id: self._whole[id] for id in ids if id in self._whole}
        self._parts = {id: self._parts[id] for id in ids if id in self._parts}
        self._sizes = {}
        self._said = 0

    def missing(self, ids: Iterable[str]) -> list[Gap]:
        """Return what is missing of the message."""
        gaps: list[Gap] = []
        for id in ids:
            if id not in self._whole and id not in self._kept:
                here = len(self._parts.get(id, b""))
                gaps.append(Gap(id, here, self._sizes.get(id)))
        return gaps

    def add(self, part: Part) -> None:
        """Take a part of an object; one that begins elsewhere than the last one ended is ignored.

        Raises WireError MDW-650 for a range of no object of the message, or beyond its object, and
        MDW-651 where an object has another digest than its name.
        """
        id = part.object_id
        if id not in self._ids:
            raise _misfit("an object that the message does not have")
        self._said += part.size - self._sizes.get(id, 0)
        self._sizes[id] = part.size
        if part.size < 0 or self._said > self._most:
            raise too_large(self._said, self._most)
        content = joined(part.content)
        if part.is_whole:
            self._whole[id] = checked(id, content)
            return
        here = self._parts.setdefault(id, bytearray())
        # Its sender may say another size than before.
        if part.start < 0 or max(len(here), part.start + len(content)) > part.size:
            del self._parts[id]
            raise _misfit(f"more than the {part.size} bytes that the object {id[:12]} has")
        if part.start == len(here):
            here += content
        if len(here) < part.size:
            return
        del self._parts[id]
        # Parts may be of two servers, one after the other.
        self._whole[id] = checked(id, bytes(here))

    def make_room(self, ids: Iterable[str]) -> None:
        """Let go of kept objects that the message does not have, where it will take their place."""
        if sum(self._sizes.values()) >= LARGE:
            self._kept = {id: self._kept[id] for id in ids if id in self._kept}

    def finish(self, ids: Iterable[str]) -> dict[str, Buffer]:
        """Return the message's objects by id; they are kept for the next one where they are large."""
        known = self._kept | self._whole
        contents = {id: known[id] for id in ids}
        self._whole = {}
        self._parts = {}
        size = sum(len(content) for content in contents.values())
        if LARGE <= size <= KEPT_BYTES:
            self._kept = dict(contents)
        elif size > KEPT_BYTES:
            self._kept = {}
        return contents


@dataclass(frozen=True)
class Gap:
    """What is missing of an object: all from byte `start` on; its size may be unknown yet."""

    id: str
    start: int
    size: int | None

    @property
    def bytes(self) -> int:
        """Return how many bytes are missing, 0 where that is unknown."""
        return 0 if self.size is None else self.size - self.start

"""What has arrived of a message that a silo receives in parts, and what is missing of it.

MDW-651 an object that is not what its name says
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


class Arrivals:
    """What has arrived of the message in progress, and the objects of the last large one."""

    def __init__(self, most: int = LARGEST) -> None:
        """`most` bytes may arrive of one message."""
        self._most = most
        self._said = 0
        """The sum of the sizes, before any of the bytes is taken."""
        self._kept: dict[str, Buffer] = {}
        self._checked: set[str] = set()
        """Of what is kept, the objects whose digest is known to be their name."""
        self._whole: dict[str, Buffer] = {}
        self._parts: dict[str, bytearray] = {}
        self._sizes: dict[str, int] = {}

    def begin(self, ids: Sequence[str]) -> None:
        """Begin a message, or continue one that was interrupted: what it has not is forgotten."""
        self._whole = {id: self._whole[id] for id in ids if id in self._whole}
        self._parts = {id: self._parts[id] for id in ids if id in self._parts}
        self._sizes = {}
        self._said = 0
        self._check_kept(ids)

    def _check_kept(self, ids: Iterable[str]) -> None:
        """Let go of kept objects of a message that are not what their names say.

        Another server may have sent them: what it called something is nothing to this one.
        """
        for id in ids:
            if id not in self._kept or id in self._checked:
                continue
            if hashlib.sha256(self._kept[id]).hexdigest() == id:
                self._checked.add(id)
            else:
                del self._kept[id]

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

        Raises WireError MDW-651 where parts make an object of another digest than its name.
        """
        id = part.object_id
        self._said += part.size - self._sizes.get(id, 0)
        self._sizes[id] = part.size
        if part.size < 0 or self._said > self._most:
            raise too_large(self._said, self._most)
        content = joined(part.content)
        if part.is_whole:
            self._whole[id] = content
            return
        here = self._parts.setdefault(id, bytearray())
        if part.start == len(here):
            here += content
        if len(here) < part.size:
            return
        del self._parts[id]
        whole = bytes(here)
        # Parts may be of two servers, one after the other.
        if hashlib.sha256(whole).hexdigest() != id:
            raise WireError(
                "MDW-651",
                f"The object {id[:12]} is complete and has another digest.",
                "The server's code or memory is damaged.",
            )
        self._whole[id] = whole

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
        self._checked &= self._kept.keys()
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

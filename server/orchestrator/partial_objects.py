"""What has arrived of objects that are not whole yet, by the node that sends them.

An object grows at its end only: a range that begins where the last one ended, or before that, adds
what it has beyond. So ranges can neither overlap with another content nor leave a hole, and the
digest of the whole, which is the object's name, is the judge of all of them. What one node has sent
is nothing to another: it can't read, continue or complete it.

    MDW-650 a range that can't be one of its object     MDW-651 an object that is not what its name says
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final

from conf.errors import WireError
from strategies.wire.frames import Buffer

AT_ONCE: Final = 4
"""Objects that one node may have in parts; of more the oldest is forgotten, and begins anew."""
ALL_BYTES: Final = 512 * 2**20
"""Bytes of all parts of all nodes; beyond them the one that has not grown for longest goes."""

Name = tuple[int, str]
"""The node that sends, and the id of the object."""


class PartialObjects:
    """Objects in parts; safe to use from any thread."""

    def __init__(self, object_bytes: int, all_bytes: int = ALL_BYTES) -> None:
        """`object_bytes` is the size of the largest object that may travel."""
        self._object_bytes = object_bytes
        self._all_bytes = all_bytes
        self._lock = threading.Lock()
        self._sizes: dict[Name, int] = {}
        self._parts: OrderedDict[Name, bytearray] = OrderedDict()

    def __len__(self) -> int:
        """Return the bytes that are here."""
        with self._lock:
            return self._bytes()

    def arrived(self, node: int, id: str) -> int:
        """Return how many of the first bytes of an object a node has sent."""
        with self._lock:
            return len(self._parts.get((node, id), b""))

    def begun(self, node: int) -> dict[str, int]:
        """Return how many of the first bytes of each of a node's objects are here."""
        with self._lock:
            return {name[1]: len(part) for name, part in self._parts.items() if name[0] == node}

    def of(self, node: int) -> dict[str, tuple[int, bytes]]:
        """Return a node's objects by id: their sizes, and the first bytes that are here."""
        with self._lock:
            return {
                name[1]: (self._sizes[name], bytes(part))
                for name, part in self._parts.items()
                if name[0] == node
            }

    def check(self, size: int, start: int, length: int) -> None:
        """Raise WireError MDW-650 where a range does not lie in an object that may travel."""
        if not 0 < size <= self._object_bytes:
            raise _misfit(f"an object of {size} bytes, where {self._object_bytes} are allowed")
        if start < 0 or start + length > size:
            raise _misfit(f"bytes {start} to {start + length} of an object of {size}")

    def add(self, node: int, id: str, size: int, start: int, content: Buffer) -> Buffer | None:
        """Take a range of an object; return the object where that was the last one missing.

        A range that begins beyond what is here adds nothing: its sender asks how far to go back.
        Raises WireError MDW-650 for a range that is not of the object that was begun, and MDW-651
        where the whole has another digest than its name; what was here of it is gone then.
        """
        self.check(size, start, len(content))
        name = (node, id)
        with self._lock:
            if self._sizes.get(name, size) != size:
                raise _misfit(f"an object of {size} bytes that had {self._sizes[name]} before")
            whole = self._grown(name, size, start, content)
        if whole is None:
            return None
        # Nobody else has it any more, so it is hashed without the lock.
        if hashlib.sha256(whole).hexdigest() != id:
            raise WireError(
                "MDW-651",
                f"The object {id[:12]} is complete and has another digest.",
                "The silo's code or memory is damaged.",
            )
        return whole

    def drop(self, node: int) -> None:
        """Forget what a node has sent."""
        with self._lock:
            for name in [name for name in self._parts if name[0] == node]:
                self._forget(name)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._parts.clear()
            self._sizes.clear()

    def _grown(self, name: Name, size: int, start: int, content: Buffer) -> Buffer | None:
        """Add a range, and return the whole object where there is one now; it is forgotten then."""
        if len(content) == size:
            # Most objects come in one part, which need not be copied.
            self._forget(name)
            return content
        self._sizes[name] = size
        here = self._parts.setdefault(name, bytearray())
        if start <= len(here):
            here += content[len(here) - start :]
        if len(here) == size:
            self._forget(name)
            return bytes(here)
        self._parts.move_to_end(name)
        self._make_room(name[0])
        return None

    def _make_room(self, node: int) -> None:
        """Forget the oldest where a node, or all together, have more than is allowed."""
        own = [name for name in self._parts if name[0] == node]
        for name in own[: max(0, len(own) - AT_ONCE)]:
            self._forget(name)
        while self._bytes() > self._all_bytes:
            self._forget(next(iter(self._parts)))

    def _forget(self, name: Name) -> None:
        self._parts.pop(name, None)
        self._sizes.pop(name, None)

    def _bytes(self) -> int:
        return sum(len(part) for part in self._parts.values())


def _misfit(what: str) -> WireError:
    hint = "Run the same version of Meadow on both sides."
    return WireError("MDW-650", f"A range that can't be one of its object: {what}.", hint)

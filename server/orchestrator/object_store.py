"""The objects of the messages on their way, by their SHA-256: each is kept once, and as long as a
message needs it.

The model that goes to a hundred silos is one set of objects that a hundred instructions hold. Who
holds what is named by the orchestrator itself (`holder`), never by an id that a silo has chosen: so
a silo can't let go of what another holds.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Set
from typing import Final

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from strategies.wire.frames import Buffer, Content, joined

NOTHING: Final[frozenset[str]] = frozenset()


class ObjectStore:
    """Objects and who holds them; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: dict[str, Content] = {}
        self._holds: Counter[str] = Counter()
        self._trees: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        """Return how many objects are held, those that have not arrived yet included."""
        return len(self._holds)

    def hold(self, holder: str, tree: ObjectTree) -> set[str]:
        """Keep the objects of a tree until `drop(holder)`, and return the ids of those that are not
        here yet.

        What the holder held before is dropped, but not before the objects that both trees have are
        held again.
        """
        ids = frozenset(node.object_id for node in iterate_object_tree(tree))
        with self._lock:
            before = self._trees.get(holder, NOTHING)
            self._trees[holder] = ids
            self._holds.update(ids)
            self._release(before)
            return {id for id in ids if id not in self._contents}

    def drop(self, holder: str) -> None:
        """Let go of a holder's objects; those that nobody else holds are freed."""
        with self._lock:
            self._release(self._trees.pop(holder, NOTHING))

    def hand_over(self, holder: str, to: str, without: Set[str]) -> None:
        """Let another holder have a holder's objects, but for some and those that are not here, in
        place of its own.
        """
        with self._lock:
            ids = self._trees.pop(holder, NOTHING)
            arrived = frozenset(id for id in ids - without if id in self._contents)
            before = self._trees.pop(to, NOTHING)
            if arrived:
                self._trees[to] = arrived
                self._holds.update(arrived)
            self._release(before)
            self._release(ids)

    def hold_here(self, holder: str, contents: Mapping[str, Content]) -> None:
        """Keep objects whose digests are known to be their ids, in place of what the holder held."""
        ids = frozenset(contents)
        with self._lock:
            before = self._trees.get(holder, NOTHING)
            self._trees[holder] = ids
            self._holds.update(ids)
            self._release(before)
            for id, content in contents.items():
                self._contents.setdefault(id, content)

    def put(self, id: str, content: Buffer) -> bool:
        """Take an object that somebody sent; False where nobody holds it or its bytes are not what
        its id says.
        """
        # Its bytes, and not its name alone: who knows the name of another's object does not have it.
        known = self.get(id)
        if known is not None:
            return joined(known) == content
        if hashlib.sha256(content).hexdigest() != id:
            return False
        return self.put_own(id, content)

    def put_own(self, id: str, content: Content) -> bool:
        """Take an object whose digest is known to be its id, without hashing it again; False where
        nobody holds it.
        """
        with self._lock:
            # The hashing was done outside the lock, and its holder may have let go meanwhile.
            if id not in self._holds:
                return False
            self._contents.setdefault(id, content)
            return True

    def get(self, id: str) -> Content | None:
        """Return an object, None where it is not here."""
        with self._lock:
            return self._contents.get(id)

    def held_by(self, holder: str) -> dict[str, Buffer]:
        """Return the objects of a holder that are here, by id."""
        with self._lock:
            ids = self._trees.get(holder, NOTHING)
            return {id: joined(self._contents[id]) for id in ids if id in self._contents}

    def ids_of(self, holder: str) -> frozenset[str]:
        """Return the ids of a holder's objects, here or not."""
        with self._lock:
            return self._trees.get(holder, NOTHING)

    def size_of(self, holder: str) -> int:
        """Return the bytes of a holder's objects that are here."""
        with self._lock:
            ids = self._trees.get(holder, NOTHING)
            return sum(len(self._contents[id]) for id in ids if id in self._contents)

    def is_held_by(self, holder: str, id: str) -> bool:
        """Return whether an object, here or not yet, is one of a holder's."""
        with self._lock:
            return id in self._trees.get(holder, NOTHING)

    def _release(self, ids: frozenset[str]) -> None:
        for id in ids:
            self._holds[id] -= 1
            if self._holds[id] == 0:
                del self._holds[id]
                self._contents.pop(id, None)

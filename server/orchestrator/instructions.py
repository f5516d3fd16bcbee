"""The instructions that wait for their replies: what is known of each, and what may happen to it
next.

An instruction goes through these states; whatever is not drawn can't happen:

    from                           what happens                                        to
    ASKED                          its node asks for work                              DELIVERED
    DELIVERED                      its node says that it has every object of it, or    ARRIVED
                                   was sent all of them in one call
    ASKED, DELIVERED, ARRIVED      the head of the reply comes                         UPLOADING
    UPLOADING                      another head comes: the upload begins anew          UPLOADING
    UPLOADING                      the last object of the reply comes                  ANSWERED
    DELIVERED, ARRIVED, UPLOADING  its node has lost it: it starts again, or asks for  ASKED
                                   work; the objects are put back
    DELIVERED, ARRIVED, UPLOADING  the same, when the node was given it MOST times     FAILED
    ASKED                          a copy of it was given MOST times                   FAILED

ANSWERED and FAILED are ends. An instruction that is closed is gone, in whichever state it was. A
reply whose head comes in ASKED was made before its node was thought to have lost the instruction;
it counts all the same.

What has arrived of a reply that was interrupted is set aside for its node, and is not sent again
when it answers the same content once more: the instruction itself or a copy of it. It is let go
when the node has answered or is given another content, and when the run is closed. What takes long
is on disk as well (`kept_uploads`), for an orchestrator that is started again in between.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from flwr.app import ArrayRecord, Error, Message, Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)

from conf.errors import WireError
from server.orchestrator.deliveries import Deliveries, reason
from server.orchestrator.kept_uploads import KeptUploads, Part
from server.orchestrator.object_store import ObjectStore
from server.orchestrator.partial_objects import PartialObjects
from strategies.wire import protocol
from strategies.wire.frames import Buffer
from strategies.wire.objects import Pieces, as_content

log = logging.getLogger(__name__)


class State(Enum):
    """Where an instruction is on its way."""

    ASKED = "asked"
    """It waits for its node to ask for work."""
    DELIVERED = "delivered"
    """Its node knows of it and pulls its objects."""
    ARRIVED = "arrived"
    """Its node has said that it has all of them, and works on it."""
    UPLOADING = "uploading"
    """The head of its reply is here, and objects are missing."""
    ANSWERED = "answered"
    """The whole reply is here."""
    FAILED = "failed"
    """It was answered in its node's place, and is not given again."""


MOST_CLOSED: Final = 10_000
"""Contents that are remembered as closed: those of some rounds of a large federation."""
WITH_ITS_NODE: Final = frozenset({State.DELIVERED, State.ARRIVED, State.UPLOADING})
"""A node was given the instruction and has not answered it."""
OBJECT_BYTES: Final = 8 * 2**20
"""Of the largest object: a chunk is 5 MiB; other records are one object each."""
REPLY_TIMES: Final = 4
"""A reply's bytes for each of its instruction's: what an algorithm sends beside the model, or in
another element type, is once or twice as much.
"""
REPLY_BYTES: Final = 64 * 2**20
"""Of a reply beside that: an instruction may be a mere question."""
SET_ASIDE_BYTES: Final = 4 * 2**30
"""Of all interrupted replies together; beyond them the oldest is let go, and is sent anew."""


@dataclass
class Upload:
    """A reply on its way."""

    metadata: Metadata
    session: str
    """What its node names the upload by: nobody else can guess it."""
    missing: set[str]
    bytes: int = 0
    """Of the objects that its node has sent for this instruction, those of an upload begun anew
    included.
    """
    began: float = field(default_factory=time.monotonic)
    """When its first head came; minus infinity where it continues one that was interrupted."""


@dataclass
class PendingInstruction:
    """An instruction and all that is known of it."""

    id: str
    message: Message
    """With its content, so that it can be delivered again."""
    tree: ObjectTree
    silo: str
    bytes: int = 0
    """Of its objects, or of its arrays where that is more: zeros are one chunk many times."""
    state: State = State.ASKED
    upload: Upload | None = None
    error: Error | None = None
    """Why it has FAILED."""

    @property
    def reply_bytes(self) -> int:
        """The bytes that its reply may have."""
        return REPLY_TIMES * self.bytes + REPLY_BYTES

    @property
    def node(self) -> int:
        """The node that is asked."""
        return self.message.metadata.dst_node_id

    @property
    def run(self) -> int:
        """The run that it belongs to."""
        return self.message.metadata.run_id

    @property
    def content(self) -> str:
        """The object id of its records: the same in every copy of the instruction."""
        return self.tree.children[0].object_id if self.tree.children else ""

    @property
    def is_over(self) -> bool:
        """Whether there is an answer, its node's or one in its place."""
        return self.state in (State.ANSWERED, State.FAILED)

    @property
    def reply_holder(self) -> str:
        """The name by which the reply's objects are held; its own are held by its id."""
        return f"reply to {self.id}"


class Instructions:
    """All pending instructions and their objects.

    The caller holds the lock that guards them, but for `prepare`.
    """

    def __init__(
        self,
        object_bytes: int = OBJECT_BYTES,
        set_aside_bytes: int = SET_ASIDE_BYTES,
        kept: KeptUploads | None = None,
    ) -> None:
        """With `kept`, uploads that take long outlast this process."""
        self.kept = kept
        self.store = ObjectStore()
        self.partial = PartialObjects(object_bytes)
        self.deliveries = Deliveries()
        self._set_aside_bytes = set_aside_bytes
        self._set_aside: OrderedDict[int, str] = OrderedDict()
        """The content that an interrupted reply answers, by node."""
        self._pending: dict[str, PendingInstruction] = {}
        self._over: set[str] = set()
        """Those pending instructions that are answered or have failed: who waits for one of many
        looks here.
        """
        self._of_node: dict[int, dict[str, PendingInstruction]] = {}
        self._may_return: set[tuple[int, str]] = set()
        """Node and content of what was lost with its node while its round goes on: asked again when
        the node is back.
        """
        self._closed: dict[tuple[int, str], None] = {}
        """Node and content of what nobody waits for any more, the latest last."""

    def __len__(self) -> int:
        return len(self._pending)

    def get(self, id: str) -> PendingInstruction | None:
        """Return a pending instruction, None where it is closed or was never asked."""
        return self._pending.get(id)

    def over_among(self, ids: Set[str]) -> list[str]:
        """Return which of some instructions are over."""
        return list(self._over & ids)

    def of(self, node: int) -> list[PendingInstruction]:
        """Return what one node is asked, oldest first."""
        return list(self._of_node.get(node, {}).values())

    def of_run(self, run: int) -> list[PendingInstruction]:
        """Return what is asked for one run."""
        return [one for one in self._pending.values() if one.run == run]

    def prepare(self, message: Message, silo: str) -> PendingInstruction:
        """Return an instruction whose objects are in the store; nobody hears of it before it is
        enqueued.

        This takes as long as the model is large, and needs no lock: every other silo goes on
        meanwhile.
        """
        with no_object_id_recompute():
            id = message.object_id
            message.metadata.__dict__["_message_id"] = id
            tree = get_object_tree(message)
        asked = PendingInstruction(id, message, tree, silo)
        self._put_objects(asked)
        asked.bytes = max(self.store.size_of(asked.id), _bytes_of_arrays(message))
        return asked

    def enqueue(self, asked: PendingInstruction) -> PendingInstruction:
        """Add a prepared instruction; it has FAILED at once where the silo was given it too often
        before.

        The same message once more is the same instruction: the one that is pending is returned.
        """
        if asked.id in self._pending:
            return self._pending[asked.id]
        self._pending[asked.id] = asked
        self._closed.pop((asked.node, asked.content), None)
        self._of_node.setdefault(asked.node, {})[asked.id] = asked
        if self.deliveries.exhausted(asked.node, asked.content):
            self.fail_instruction(asked)
        return asked

    def discard(self, asked: PendingInstruction) -> None:
        """Let go of a prepared instruction that is not enqueued after all."""
        if asked.id not in self._pending:
            self.store.drop(asked.id)

    def may_read(self, node: int, object_id: str) -> bool:
        """Return whether an object is part of what a node is asked, and has not confirmed."""
        return any(self.store.is_held_by(one.id, object_id) for one in self.of(node))

    def readable(self, node: int, object_ids: Set[str]) -> set[str]:
        """Return which of some objects are part of what a node is asked, and has not confirmed."""
        found: set[str] = set()
        for asked in self.of(node):
            found |= self.store.ids_of(asked.id) & object_ids
        return found

    def deliver_next(self, node: int) -> PendingInstruction | None:
        """Return the node's oldest instruction that is not delivered, DELIVERED now; None where
        there is none.
        """
        for asked in self.of(node):
            if asked.state is State.ASKED:
                asked.state = State.DELIVERED
                self.deliveries.given(node, asked.content)
                if self._set_aside.get(node) != asked.content:
                    self.let_go(node)
                if self.kept is not None:
                    self.kept.drop(node, unless=asked.content)
                return asked
        return None

    def confirm(self, asked: PendingInstruction) -> None:
        """Free an instruction's objects: its node has them all."""
        if asked.state is State.DELIVERED:
            asked.state = State.ARRIVED
        if asked.state is not State.ASKED:
            self.store.drop(asked.id)

    def sent(self, node: int, object_ids: Set[str]) -> None:
        """Note which objects a node was sent, whole, in one call.

        They stay until the instruction is closed: the call's answer may be lost, and asked for
        again.
        """
        for asked in self.of(node):
            if asked.state is State.DELIVERED and self.store.ids_of(asked.id) <= object_ids:
                asked.state = State.ARRIVED

    def begin_reply(
        self, asked: PendingInstruction, metadata: Metadata, tree: ObjectTree
    ) -> Upload:
        """Expect the objects of a reply whose head has come, in place of an upload before, and
        return the upload.

        The same head may come again: a node asks in this way which objects are missing.
        """
        before = asked.upload.bytes if asked.upload is not None else 0
        began = asked.upload.began if asked.upload is not None else time.monotonic()
        if self._set_aside.get(asked.node) == asked.content:
            began = -math.inf
        # Only what this node has sent or was sent: that another one's object is here says nothing of
        # whether this node has it too.
        known = self._known_to(asked)
        missing = self.store.hold(asked.reply_holder, tree)
        missing |= self.store.ids_of(asked.reply_holder) - known
        asked.upload = Upload(metadata, secrets.token_hex(16), missing, before, began)
        asked.state = State.UPLOADING
        if not missing:
            self._answered(asked)
        return asked.upload

    def upload_of(self, node: int, session: str) -> PendingInstruction | None:
        """Return the instruction that a node's upload answers, None where there is no such upload."""
        for asked in self.of(node):
            if asked.upload is not None and asked.upload.session == session:
                return asked
        return None

    def object_came(self, asked: PendingInstruction, upload: Upload, id: str) -> None:
        """Note that an object of an upload is in the store; nothing where the upload was begun anew
        meanwhile.
        """
        if asked.upload is upload and asked.state is State.UPLOADING:
            upload.missing.discard(id)
            if not upload.missing:
                self._answered(asked)

    def uploaded_by(self, node: int) -> int:
        """Return the bytes that a node has sent for all its pending instructions."""
        return sum(one.upload.bytes for one in self.of(node) if one.upload is not None)

    def may_upload(self, node: int) -> int:
        """Return the bytes that a node's replies may have, by what it was asked: one key can't fill
        this machine's memory with an answer to a small model.
        """
        return sum(one.reply_bytes for one in self.of(node))

    def unanswered(self, node: int) -> list[PendingInstruction]:
        """Return what a node was given and has not answered."""
        return [one for one in self.of(node) if one.state in WITH_ITS_NODE]

    def hand_back(self, node: int) -> None:
        """Count what a node was given, and has given back by signing off, as never given."""
        for asked in self.unanswered(node):
            self.deliveries.taken_back(node, asked.content)

    def forgive_lost(self, node: int) -> None:
        """Count as never given what did not reach a node that lives on, and asks for work again.

        What it was lost with before is not counted either: its process had not died.
        """
        self.deliveries.lives(node)
        for asked in self.unanswered(node):
            if asked.state is State.DELIVERED:
                self.deliveries.taken_back(node, asked.content)

    def node_started(self, node: int) -> None:
        """Deliver again what a process of a node had that has ended, whatever ended it."""
        self.deliveries.started(node)
        self.deliver_again(node)

    def deliver_again(self, node: int) -> None:
        """Make what a node was given and has lost deliverable again, or fail what it was given too
        often.
        """
        for asked in self.unanswered(node):
            self._put_aside(asked)
            if self.deliveries.exhausted(node, asked.content):
                self.fail_instruction(asked)
                continue
            log.info("delivering %s again to node %d", asked.id[:12], node)
            asked.state = State.ASKED
            self._put_objects(asked)
            release(asked.message)

    def fail_instruction(self, asked: PendingInstruction) -> None:
        """Answer an instruction in its node's place, with the reason for which it is not given
        again.
        """
        why = reason(asked.silo)
        log.error("%s", why)
        asked.error = Error(ErrorCode.CLIENT_APP_CRASHED, why)
        asked.state = State.FAILED
        self._over.add(asked.id)
        self.store.drop(asked.id)

    def is_closed(self, node: int, content: str) -> bool:
        """Return whether nobody waits for a node's answer to a content any more.

        False for what this process knows nothing of: the next round may ask for it.
        """
        return (node, content) in self._closed

    def end_exchange(self) -> None:
        """Close for good what was lost with its node: its round does not ask again."""
        for key in self._may_return:
            node, content = key
            if self._set_aside.get(node) == content:
                self.let_go(node)
            self._note_closed(key)
        self._may_return.clear()

    def _note_closed(self, key: tuple[int, str]) -> None:
        self._closed[key] = None
        if len(self._closed) > MOST_CLOSED:
            del self._closed[next(iter(self._closed))]

    def close(self, id: str, *, node_gone: bool = False) -> None:
        """Forget an instruction, with its objects and its reply as far as it has arrived.

        Where its node has gone, what has arrived is set aside, because the node may come back and
        be asked the same once more.
        """
        closed = self._pending.pop(id, None)
        if closed is None:
            return
        key = (closed.node, closed.content)
        if node_gone and not closed.is_over:
            self._may_return.add(key)
            self._put_aside(closed)
            if closed.state in WITH_ITS_NODE:
                self.deliveries.lost(closed.node, closed.content)
        else:
            self._note_closed(key)
        self._over.discard(id)
        del self._of_node[closed.node][id]
        if not self._of_node[closed.node]:
            del self._of_node[closed.node]
        self.store.drop(closed.id)
        self.store.drop(closed.reply_holder)
        if closed.is_over:
            self.deliveries.answered(closed.node, closed.content)

    def arrived(self, asked: PendingInstruction) -> list[Part]:
        """Return what has arrived of a reply that is on its way."""
        if asked.upload is None:
            return []
        missing = asked.upload.missing
        whole = self.store.held_by(asked.reply_holder)
        parts = [Part(id, len(one), 0, one) for id, one in whole.items() if id not in missing]
        partial = self.partial.of(asked.node)
        return parts + [Part(id, size, 0, one) for id, (size, one) in partial.items()]

    def restore(self, node: int, content: str, parts: Iterable[Part]) -> int:
        """Set aside what another process had received of a node's reply, and return its bytes.

        What does not fit together is left out: its node sends it anew.
        """
        whole: dict[str, Buffer] = {}
        for part in parts:
            try:
                one = self.partial.add(node, part.id, part.size, part.start, part.content)
            except WireError as error:
                log.warning("a part of a kept upload is left out: %s", error.message)
                continue
            if one is not None:
                whole[part.id] = one
        self.store.hold_here(_aside_holder(node), whole)
        self._note_aside(node, content)
        partial = sum(len(one) for _, one in self.partial.of(node).values())
        return self.store.size_of(_aside_holder(node)) + partial

    def let_go(self, node: int) -> None:
        """Forget what was set aside of a node's interrupted reply."""
        self._set_aside.pop(node, None)
        self.store.drop(_aside_holder(node))
        self.partial.drop(node)

    def forget_run(self, run: int) -> None:
        """Close all instructions of a run, and forget what was set aside for it."""
        for asked in self.of_run(run):
            self.close(asked.id)
        for node in list(self._set_aside):
            self.let_go(node)
        self.partial.clear()
        self.deliveries.forget()

    def _answered(self, asked: PendingInstruction) -> None:
        asked.state = State.ANSWERED
        self._over.add(asked.id)
        self.let_go(asked.node)

    def _known_to(self, asked: PendingInstruction) -> set[str]:
        """Return the objects that an instruction's node is known to have."""
        known = {node.object_id for node in iterate_object_tree(asked.tree)}
        known |= self.store.ids_of(_aside_holder(asked.node))
        if asked.upload is not None:
            known |= self.store.ids_of(asked.reply_holder) - asked.upload.missing
        return known

    def _put_aside(self, asked: PendingInstruction) -> None:
        """Keep what has arrived of a reply for its node, in place of what was set aside before."""
        if asked.upload is None:
            return
        node = asked.node
        missing = asked.upload.missing
        asked.upload = None
        self.store.hand_over(asked.reply_holder, _aside_holder(node), missing)
        self._note_aside(node, asked.content)

    def _note_aside(self, node: int, content: str) -> None:
        self._set_aside[node] = content
        self._set_aside.move_to_end(node)
        while self._bytes_aside() > self._set_aside_bytes:
            self.let_go(next(iter(self._set_aside)))

    def _bytes_aside(self) -> int:
        return sum(self.store.size_of(_aside_holder(node)) for node in self._set_aside)

    def _put_objects(self, asked: PendingInstruction) -> None:
        """Put an instruction's objects into the store, those that it lacks.

        They are there before its node can hear of the instruction: a node that finds an object
        missing waits a second.
        """
        missing = self.store.hold(asked.id, asked.tree)
        with no_object_id_recompute():
            for id, one in get_all_nested_objects(asked.message).items():
                if id in missing:
                    self.store.put_own(id, as_content(one))


def _bytes_of_arrays(message: Message) -> int:
    if not message.has_content():
        return 0
    found = protocol.records(message.content, ArrayRecord).values()
    arrays = [array for record in found for array in record.values()]
    return sum(one.nbytes if isinstance(one, Pieces) else len(one.data) for one in arrays)


def _aside_holder(node: int) -> str:
    return f"set aside for {node}"


def release(message: Message) -> None:
    """Free the chunks that packed arrays keep once they are in the store; they can be cut again."""
    if message.has_content():
        for record in protocol.records(message.content, ArrayRecord).values():
            for array in record.values():
                if isinstance(array, Pieces):
                    array.__dict__.pop("_chunks", None)

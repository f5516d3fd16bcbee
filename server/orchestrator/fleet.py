"""The Fleet service that silos call: Flower's own, with what a node may see, send and hold in memory bounded.

Flower's servicer trusts an authenticated node: it may read and delete any object it can name, answer for another
node, and fill the memory. Here a node reads the objects of its own open instructions, answers those once, and holds
no more bytes and objects than `Limits` allow. A node that comes back is let in at once and gets again what it had
been given, though not for ever; a node that waits for work is answered the moment there is some.

    MDW-644 a malformed call      MDW-645 nobody waits for this      MDW-646 a second answer      MDW-642 too large
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, cast

import grpc
from flwr.app import ArrayRecord, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    is_valid_sha256_hash,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from conf.errors import WireError
from server.orchestrator.deliveries import Deliveries, reason
from server.orchestrator.link_state import StableLinkState
from strategies.wire import protocol
from strategies.wire.headers import APP_HASH, KEY_ENDS, NODE_HEADER, OVER_HEADER
from strategies.wire.objects import Pieces, tree_size

log = logging.getLogger(__name__)

LONG_POLL_SECONDS: Final = 15.0
"""How long a node's question for work waits for an answer: less than any proxy's idle limit, and than the heartbeat
patience of a stock node."""
DEFAULT_INTERVAL: Final = 30.0
"""Heartbeat interval of a node that has not said its own (Flower's default), in seconds."""


@dataclass(frozen=True)
class Limits:
    """What one key may have in flight: bytes of one call, and objects and bytes of all its open answers."""

    call_bytes: int = 8 * 2**20  # a chunk is 5 MiB; other records are one object each
    objects: int = 50_000
    update_bytes: int = 4 * 2**30


@dataclass
class Upload:
    """A reply on its way: which objects are missing yet."""

    reply_id: str
    session: str
    missing: set[str]
    bytes: int = 0


@dataclass
class Open:
    """An instruction that waits for its reply."""

    message: Message  # with its content, to be delivered again
    node: int
    content: str  # object id of its records, the same in every copy of the instruction
    readable: frozenset[str]
    upload: Upload | None = None
    arrived: bool = False  # its node has said that it has the whole of it

    @property
    def answered(self) -> bool:
        """Say whether the whole reply is here."""
        return self.upload is not None and not self.upload.missing


@dataclass
class RunAccess:
    """Which run is open, of which code, and for which nodes."""

    run_id: int
    nodes: frozenset[int]
    app_hash: str


@dataclass
class _Poll:
    """What kind of node one is, and its latest question for work; an earlier one that still waits gives way."""

    turn: int = 0
    own: bool = False
    interval: float = DEFAULT_INTERVAL


class Fleet(FleetServicer):
    """Flower's servicer with access control, bounds, rejoin and long poll. `changed` guards and signals its state."""

    def __init__(
        self,
        factory: LinkStateFactory,
        objects: ObjectStoreFactory,
        link: StableLinkState,
        limits: Limits,
    ) -> None:
        super().__init__(factory, objects, enable_supernode_auth=True)
        self.link, self.store, self.limits = (
            link,
            cast(InMemoryObjectStore, link.object_store),
            limits,
        )
        self.changed = threading.Condition()
        self.open: dict[str, Open] = {}
        self.access: RunAccess | None = None
        self.over = False
        self.deliveries = Deliveries()
        self.key_ends: dict[int, float] = {}  # of nodes whose key ends soon, seconds since 1970
        self._polls: dict[int, _Poll] = {}

    # What the grid calls

    def ask(self, message: Message) -> str | None:
        """Store an instruction, its objects first, and wake its node; None where the node can't be asked."""
        with self.changed:
            id = self._put(message)
            if self.link.store_message_ins(remove_content_from_message(message)) is None:
                self.store.delete(id)
                return None
            tree = self.store.get_object_tree(id)
            readable = frozenset(node.object_id for node in iterate_object_tree(tree))
            content = tree.children[0].object_id if tree.children else ""
            self.open[id] = asked = Open(message, message.metadata.dst_node_id, content, readable)
            if self.deliveries.exhausted(asked.node, content):
                self._give_up(asked)
            self.changed.notify_all()
            return id

    def close(self, id: str) -> None:
        """Forget an instruction, with its objects and its reply as far as it has arrived."""
        with self.changed:
            closed = self.open.pop(id, None)
            self.link.delete_messages({id})
            self.store.delete(id)
            if closed is not None and closed.upload is not None:
                self.store.delete(closed.upload.reply_id)
                if closed.answered:
                    self.deliveries.answered(closed.node, closed.content)

    def is_own(self, node: int) -> bool:
        """Say whether a node is Meadow's own kind."""
        poll = self._polls.get(node)
        return poll is not None and poll.own

    # What nodes call

    def ActivateNode(
        self, request: ActivateNodeRequest, context: grpc.ServicerContext
    ) -> ActivateNodeResponse:
        """Let a node in at once, also one that crashed, and give it again what it had been given."""
        with self.changed, self.link.lock:
            node = self.link.get_node_id_by_public_key(request.public_key)
            if node is not None:
                self.link.deactivate_node(node)
            response = super().ActivateNode(request, context)
            self._polls[response.node_id] = _Poll(
                interval=request.heartbeat_interval, own=_is_own(context)
            )
            self._deliver_again(response.node_id)
            self.changed.notify_all()
        return response

    def DeactivateNode(
        self, request: DeactivateNodeRequest, context: grpc.ServicerContext
    ) -> DeactivateNodeResponse:
        """See Flower's servicer; what the node was given and has not answered is handed back."""
        response = super().DeactivateNode(request, context)
        with self.changed:
            for asked in self._in_hand(request.node_id).values():
                self.deliveries.taken_back(asked.node, asked.content)
            self.changed.notify_all()
        return response

    def SendNodeHeartbeat(
        self, request: SendNodeHeartbeatRequest, context: grpc.ServicerContext
    ) -> SendNodeHeartbeatResponse:
        """See Flower's servicer; a node that was not there before is noticed at once."""
        known = self.link.is_online(request.node.node_id)
        response = super().SendNodeHeartbeat(request, context)
        with self.changed:
            poll = self._poll(request.node.node_id)
            poll.interval, poll.own = request.heartbeat_interval, _is_own(context)
            if not known:
                self.changed.notify_all()
        return response

    def PullMessages(
        self, request: PullMessagesRequest, context: grpc.ServicerContext
    ) -> PullMessagesResponse:
        """Wait until there is work for the node, or `LONG_POLL_SECONDS`.

        A node of Meadow's own works on one instruction at a time, so what it asks for work it holds none: whatever
        it had been given and has not answered is lost, and delivered again.
        """
        node = request.node.node_id
        with self.changed:
            poll = self._poll(node)
            poll.turn, poll.own, turn = poll.turn + 1, _is_own(context), poll.turn + 1
            if poll.own:
                self._take_back_lost(node)
                self._deliver_again(node)
            if not self.link.is_online(node):
                self.changed.notify_all()
            self.link.acknowledge_node_heartbeat(node, poll.interval)
            if node in self.key_ends:
                context.set_trailing_metadata(((KEY_ENDS, f"{self.key_ends[node]:.0f}"),))
        end = time.monotonic() + LONG_POLL_SECONDS
        while True:
            with self.changed:
                # a message handed to a call that nobody waits for any more would count as delivered
                if (
                    self.over
                    or not context.is_active()
                    or poll.turn != turn
                    or not self.link.is_online(node)
                ):
                    break
                response = self._pull(request, context)
                left = end - time.monotonic()
                if response.messages_list or left <= 0:
                    return response
                self.changed.wait(min(left, 1.0))
        if self.over:
            context.set_trailing_metadata(((OVER_HEADER, "1"),))
        return PullMessagesResponse()

    def PullObject(
        self, request: PullObjectRequest, context: grpc.ServicerContext
    ) -> PullObjectResponse:
        """Return an object of one of the node's own instructions."""
        self._check_run(request.run_id, request.node.node_id, context)
        if not any(request.object_id in one.readable for _, one in self._of(request.node.node_id)):
            return PullObjectResponse(object_found=False, object_available=False)
        return super().PullObject(request, context)

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest, context: grpc.ServicerContext
    ) -> ConfirmMessageReceivedResponse:
        """Free the objects of the node's own instruction."""
        self._check_run(request.run_id, request.node.node_id, context)
        asked = dict(self._of(request.node.node_id)).get(request.message_object_id)
        if asked is None:
            return ConfirmMessageReceivedResponse()
        asked.arrived = True
        return super().ConfirmMessageReceived(request, context)

    def GetRun(self, request: GetRunRequest, context: grpc.ServicerContext) -> GetRunResponse:
        """Describe the open run to a node that takes part in it."""
        access = self._check_run(request.run_id, request.node.node_id, context)
        context.set_trailing_metadata(((APP_HASH, access.app_hash),))
        return super().GetRun(request, context)

    def GetFab(self, request: GetFabRequest, context: grpc.ServicerContext) -> GetFabResponse:
        """Hand the app's bundle to a stock node that takes part in the run; Meadow's own never ask."""
        self._check_run(request.run_id, request.node.node_id, context)
        return super().GetFab(request, context)

    def PushMessages(
        self, request: PushMessagesRequest, context: grpc.ServicerContext
    ) -> PushMessagesResponse:
        """Take the head of a reply: once, from the node that was asked, within its bounds."""
        with self.changed:
            asked = self._checked_reply(request, context)
            metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
            self._check_tree(tree, context)
            if asked.upload is not None and asked.upload.reply_id != metadata.message_id:
                if asked.answered:
                    _refuse(
                        context,
                        "MDW-646",
                        f"{metadata.reply_to_message_id[:12]} has been answered already.",
                    )
                self.store.delete(asked.upload.reply_id)
                self._drop_reply(metadata.reply_to_message_id)
            before = asked.upload.bytes if asked.upload else 0
            response = super().PushMessages(request, context)
            if self.link.reply_head(metadata.reply_to_message_id) is None:
                _refuse(
                    context,
                    "MDW-644",
                    "The reply's metadata do not fit the instruction, or it has expired.",
                )
            missing = set(response.objects_to_push)
            asked.upload = Upload(metadata.message_id, response.session_id, missing, before)
            if not missing:
                self.changed.notify_all()
        return response

    def PushObject(
        self, request: PushObjectRequest, context: grpc.ServicerContext
    ) -> PushObjectResponse:
        """Take one object of a reply whose head is here."""
        node = request.node.node_id
        self._check_run(request.run_id, node, context)
        upload = self._upload(node, request.session_id)
        if upload is None:
            return PushObjectResponse(stored=False)
        size = len(request.object_content)
        with self.changed:
            held = sum(one.upload.bytes for _, one in self._of(node) if one.upload)
            if held + size > self.limits.update_bytes:
                _refuse(
                    context, "MDW-642", f"More than {self.limits.update_bytes} bytes in flight."
                )
            upload.bytes += size
        response = super().PushObject(request, context)
        with self.changed:
            if not response.stored:
                upload.bytes -= size
            upload.missing.discard(request.object_id if response.stored else "")
            if not upload.missing:
                self.changed.notify_all()
        return response

    # Inside

    def _put(self, message: Message) -> str:
        """Store a message's objects and return its id; the chunks made for it are freed, the store has them."""
        with no_object_id_recompute():
            id = message.object_id
            message.metadata.__dict__["_message_id"] = id
            missing = set(self.store.preregister(message.metadata.run_id, get_object_tree(message)))
            for object_id, one in get_all_nested_objects(message).items():
                if object_id in missing:
                    self._store_own(object_id, one.deflate())
        return id

    def _store_own(self, object_id: str, content: bytes) -> None:
        """Store an object of our own without hashing it a second time."""
        with self.store.lock_store:
            entry = self.store.store[object_id]
            entry.content, entry.is_available = content, True

    def _pull(
        self, request: PullMessagesRequest, context: grpc.ServicerContext
    ) -> PullMessagesResponse:
        response = super().PullMessages(request, context)
        for tree in response.message_object_trees:
            if asked := self.open.get(tree.object_id):
                self.deliveries.given(asked.node, asked.content)
        return response

    def _in_hand(self, node: int) -> dict[str, Open]:
        """Return what a node was given and has not answered, by id."""
        given = self.link.message_ins_store
        return {
            id: one
            for id, one in self._of(node)
            if not one.answered and id in given and given[id].metadata.delivered_at
        }

    def _take_back_lost(self, node: int) -> None:
        """Count as never given what did not reach a node that lives on, and asks for work again."""
        for asked in self._in_hand(node).values():
            if not asked.arrived:
                self.deliveries.taken_back(node, asked.content)

    def _deliver_again(self, node: int) -> None:
        for id, one in self._in_hand(node).items():
            if one.upload is not None:
                self.store.delete(one.upload.reply_id)
                one.upload = None
            self.link.undeliver(id)
            if self.deliveries.exhausted(node, one.content):
                self._give_up(one)
                continue
            log.info("delivering %s again to node %d", id[:12], node)
            one.arrived = False
            self._put(one.message)
            release(one.message)

    def _give_up(self, asked: Open) -> None:
        """Answer an instruction in its node's place, with the reason for which it is not given again."""
        info = self.link.nodes.get(asked.node)
        why = reason(str(info.name) if info is not None else "a silo")
        log.error("%s", why)
        reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, why), reply_to=asked.message)
        asked.upload = Upload(self._put(reply), "", set())
        self.link.withdraw(asked.message.metadata.message_id)
        self.link.store_message_res(reply)

    def _drop_reply(self, id: str) -> None:
        self.link.undeliver(id)
        self.link.withdraw(id)

    def _of(self, node: int) -> list[tuple[str, Open]]:
        return [(id, one) for id, one in list(self.open.items()) if one.node == node]

    def _poll(self, node: int) -> _Poll:
        return self._polls.setdefault(node, _Poll())

    def _upload(self, node: int, session: str) -> Upload | None:
        found = (
            one.upload for _, one in self._of(node) if one.upload and one.upload.session == session
        )
        return next(found, None) if session else None

    def _check_tree(self, tree: ObjectTree, context: grpc.ServicerContext) -> None:
        try:
            tree_size(tree, self.limits.objects)
        except WireError as error:
            _refuse(context, error.code, error.message)
        if not all(is_valid_sha256_hash(node.object_id) for node in iterate_object_tree(tree)):
            _refuse(context, "MDW-644", "An object's name is no SHA-256.")

    def _check_run(self, run_id: int, node: int, context: grpc.ServicerContext) -> RunAccess:
        access = self.access
        if access is None or access.run_id != run_id:
            _refuse(context, "MDW-645", f"Run {run_id} is not open here.")
        if node not in access.nodes:
            _refuse(context, "MDW-645", f"Run {run_id} does not name this silo.")
        return access

    def _checked_reply(self, request: PushMessagesRequest, context: grpc.ServicerContext) -> Open:
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            _refuse(context, "MDW-644", "A call carries one reply.")
        metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
        self._check_run(metadata.run_id, request.node.node_id, context)
        asked = self.open.get(metadata.reply_to_message_id)
        if asked is None or asked.node != request.node.node_id:
            _refuse(
                context,
                "MDW-645",
                "Nobody waits for this reply; the round it belongs to has closed.",
            )
        sent = asked.message.metadata
        if (
            metadata.src_node_id != asked.node
            or metadata.message_id != tree.object_id
            or metadata.message_type != sent.message_type
        ):
            _refuse(context, "MDW-644", "The reply's metadata do not fit the instruction.")
        return asked


def release(message: Message) -> None:
    """Free the chunks that packed arrays keep once they are in the store; they can be cut again."""
    if message.has_content():
        for record in protocol.records(message.content, ArrayRecord).values():
            for array in record.values():
                if isinstance(array, Pieces):
                    array.__dict__.pop("_chunks", None)


def objects_of(fleet: Fleet, reply_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield the stored objects of a complete reply."""
    for node in iterate_object_tree(fleet.store.get_object_tree(reply_id)):
        content = fleet.store.get(node.object_id)
        if content:
            yield node.object_id, content


def _is_own(context: grpc.ServicerContext) -> bool:
    return NODE_HEADER in dict(context.invocation_metadata())


def _refuse(context: grpc.ServicerContext, code: str, why: str) -> NoReturn:
    """End a call that breaks the rules: PERMISSION_DENIED, which a stock node takes for a run that is over."""
    log.warning("%s: refused a call of %s: %s", code, context.peer(), why)
    context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{code}: {why}")
    raise AssertionError("abort raises")

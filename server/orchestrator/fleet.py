"""The Fleet service that silos call: what a node may see, send and hold in memory is bounded.

A node reads the objects of its own pending instructions, answers those once, and holds no more
bytes and objects than `Limits` allow. A node that comes back is let in at once and gets again what
it had been given, though not for ever; a node that waits for work is answered the moment there is
some. Who calls is checked before (`identity`); what an instruction goes through is drawn in
`instructions`.

    MDW-642 too large             MDW-644 a malformed call
    MDW-645 nobody waits for this MDW-646 a second answer
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

import grpc
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto, run_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    RegisterNodeFleetRequest,
    RegisterNodeFleetResponse,
    UnregisterNodeFleetRequest,
    UnregisterNodeFleetResponse,
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
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.supercore.inflatable.inflatable_object import is_valid_sha256_hash, iterate_object_tree
from flwr.supercore.run import Run

from conf.errors import WireError
from conf.running_clock import RunningClock
from server.orchestrator.instructions import Instructions, PendingInstruction, Upload
from server.orchestrator.kept_uploads import KeptUploads, Part
from server.orchestrator.nodes import (
    DEFAULT_INTERVAL,
    PATIENCE,
    NodeEntry,
    NodeTable,
    is_interval,
    node_id_of,
)
from server.orchestrator.refused import refuse
from server.orchestrator.transfer_progress import TransferProgress
from server.orchestrator.twins import Twins
from server.orchestrator.work_signals import WorkSignals
from strategies.wire.headers import (
    BEGUN_HEADER,
    CLOSED_HEADER,
    KEY_ENDS,
    NODE_HEADER,
    OVER_HEADER,
    PARTS_HEADER,
    TWIN_HEADER,
    WORKING_HEADER,
    begun_to_header,
)
from strategies.wire.objects import tree_size
from strategies.wire.run_code import RunCode

log = logging.getLogger(__name__)

LONG_POLL_SECONDS: Final = 15.0
"""How long a node's question for work waits for an answer: less than any proxy's idle limit, and
than the heartbeat patience of a stock node."""

MOST_HEADER: Final = 128
"""Characters that are read of a header of a node's."""


@dataclass(frozen=True)
class Limits:
    """What one key may have in flight: bytes of one call, and objects and bytes of all its open
    answers.
    """

    call_bytes: int = 8 * 2**20  # a chunk is 5 MiB; other records are one object each
    objects: int = 50_000
    update_bytes: int = 4 * 2**30


@dataclass(frozen=True)
class RunAccess:
    """The open run, of which code it is, and for which nodes."""

    run: Run
    nodes: frozenset[int]
    code: RunCode
    bundle: bytes
    """Flower's app bundle, for stock nodes; Meadow's own never ask for it."""


class Fleet:
    """The service's calls, and what the grid needs of them.

    `changed` guards all of its state and signals it, but for new work, of which its node alone is
    told.
    """

    def __init__(
        self,
        limits: Limits,
        clock: RunningClock | None = None,
        kept: KeptUploads | None = None,
    ) -> None:
        self.limits = limits
        self.clock = clock or RunningClock()
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self._work = WorkSignals(lock)
        self.nodes = NodeTable(self.clock)
        self.twins = Twins(self.clock, PATIENCE * DEFAULT_INTERVAL)
        self.instructions = Instructions(limits.call_bytes, kept=kept)
        self.progress = TransferProgress()
        self.access: RunAccess | None = None
        self.over = False
        self.key_ends: dict[int, float] = {}  # of nodes whose key ends soon, seconds since 1970

    # What the grid calls

    def enqueue(self, message: Message) -> str | None:
        """Ask a node and wake it; returns the instruction's id, None where it can't be asked.

        That is where its key is not admitted any more, and where the message's run is not the open
        one.
        """
        node = self.nodes.get(message.metadata.dst_node_id)
        if node is None:
            return None
        prepared = self.instructions.prepare(message, node.silo)
        with self.changed:
            # Asked only here: the run may have been closed, or the key revoked, while the objects
            # were stored.
            is_open = self.access is not None and self.access.run.run_id == prepared.run
            if not is_open or self.nodes.get(node.id) is None:
                self.instructions.discard(prepared)
                return None
            asked = self.instructions.enqueue(prepared)
            self._work.tell(node.id)
            if asked.is_over:
                self.changed.notify_all()
            return asked.id

    def close(self, id: str) -> None:
        """Forget an instruction, with its objects and its reply as far as it has arrived."""
        with self.changed:
            self.instructions.close(id)

    def end(self) -> None:
        """Say from now on that the federation is over, also to those that wait for work."""
        with self.changed:
            self.over = True
            self._work.tell_all()
            self.changed.notify_all()

    # What nodes call

    def RegisterNode(
        self, request: RegisterNodeFleetRequest, context: grpc.ServicerContext
    ) -> RegisterNodeFleetResponse:
        """Refuse: silos are admitted by the orchestrator's owner."""
        refuse(context, "MDW-748", "Silos do not register themselves.")

    def UnregisterNode(
        self, request: UnregisterNodeFleetRequest, context: grpc.ServicerContext
    ) -> UnregisterNodeFleetResponse:
        """Refuse, as `RegisterNode`."""
        refuse(context, "MDW-748", "Silos do not unregister themselves.")

    def ActivateNode(
        self, request: ActivateNodeRequest, context: grpc.ServicerContext
    ) -> ActivateNodeResponse:
        """Let a node in at once, also one that crashed, and give it again what it had been given."""
        _check_interval(request.heartbeat_interval, context)
        node = node_id_of(request.public_key)
        with self.changed:
            if not self.nodes.heard_from(node, request.heartbeat_interval, _is_own(context)):
                refuse(context, "MDW-743", "The key is not admitted any more.")
            if process := _process(context):
                self.twins.signed_on(node, process, context.peer())
            self.instructions.node_started(node)
            self.changed.notify_all()
        return ActivateNodeResponse(node_id=node)

    def DeactivateNode(
        self, request: DeactivateNodeRequest, context: grpc.ServicerContext
    ) -> DeactivateNodeResponse:
        """Let a node go; what it was given and has not answered is handed back."""
        process = _process(context)
        if process and not self.twins.left(request.node_id, process):
            # The other process with its key stays, and with it the silo.
            return DeactivateNodeResponse()
        with self.changed:
            self.nodes.left(request.node_id)
            self.instructions.hand_back(request.node_id)
            self.changed.notify_all()
        return DeactivateNodeResponse()

    def SendNodeHeartbeat(
        self, request: SendNodeHeartbeatRequest, context: grpc.ServicerContext
    ) -> SendNodeHeartbeatResponse:
        """Note that a node is alive; one that was not there before is noticed at once."""
        _check_interval(request.heartbeat_interval, context)
        node = request.node.node_id
        was_online = self.nodes.is_online(node)
        known = self.nodes.heard_from(node, request.heartbeat_interval, _is_own(context))
        if known and not was_online:
            with self.changed:
                self.changed.notify_all()
        self._answers_for(node, context)
        self._say_if_closed(node, context)
        return SendNodeHeartbeatResponse(success=known)

    def PullMessages(
        self, request: PullMessagesRequest, context: grpc.ServicerContext
    ) -> PullMessagesResponse:
        """Wait until there is work for the node, or `LONG_POLL_SECONDS`.

        A node of Meadow's own works on one instruction at a time, so when it asks for work it holds
        none: whatever it had been given and has not answered is lost, and delivered again.
        """
        end = time.monotonic() + LONG_POLL_SECONDS
        if not self._answers_for(request.node.node_id, context):
            return self._nothing_for_a_twin(request.node.node_id, end, context)
        entry, question = self._question(request.node.node_id, context)
        with self.changed:
            while self._is_asking(entry, question, context):
                asked = self.instructions.deliver_next(entry.id)
                if asked is not None:
                    return _work(asked)
                left = end - time.monotonic()
                if left <= 0:
                    break
                # Nobody signals that a caller has gone, or that a node's heartbeat has run out.
                self._work.wait(entry.id, min(left, 1.0))
        if self.over:
            context.set_trailing_metadata(((OVER_HEADER, "1"),))
        return PullMessagesResponse()

    def PullObject(
        self, request: PullObjectRequest, context: grpc.ServicerContext
    ) -> PullObjectResponse:
        """Return an object of one of the node's own instructions."""
        node = request.node.node_id
        self.check_run(request.run_id, node, context)
        with self.changed:
            readable = self.instructions.may_read(node, request.object_id)
        content = self.instructions.store.get(request.object_id) if readable else None
        return PullObjectResponse(
            object_found=content is not None,
            object_available=content is not None,
            object_content=b"" if content is None else bytes(content),
        )

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest, context: grpc.ServicerContext
    ) -> ConfirmMessageReceivedResponse:
        """Free the objects of the node's own instruction."""
        node = request.node.node_id
        self.check_run(request.run_id, node, context)
        with self.changed:
            asked = self.instructions.get(request.message_object_id)
            if asked is not None and asked.node == node:
                self.instructions.confirm(asked)
        return ConfirmMessageReceivedResponse()

    def GetRun(self, request: GetRunRequest, context: grpc.ServicerContext) -> GetRunResponse:
        """Describe the open run to a node that takes part in it."""
        access = self.check_run(request.run_id, request.node.node_id, context)
        context.set_trailing_metadata(access.code.to_headers())
        return GetRunResponse(run=run_to_proto(access.run))

    def GetFab(self, request: GetFabRequest, context: grpc.ServicerContext) -> GetFabResponse:
        """Hand the app's bundle to a stock node that takes part in the run; Meadow's own never ask."""
        access = self.check_run(request.run_id, request.node.node_id, context)
        if request.hash_str != access.run.fab_hash:
            refuse(context, "MDW-645", "That is not the bundle of the open run.")
        return GetFabResponse(fab=Fab(hash_str=access.run.fab_hash, content=access.bundle))

    def PushMessages(
        self, request: PushMessagesRequest, context: grpc.ServicerContext
    ) -> PushMessagesResponse:
        """Take the head of a reply: once, from the node that was asked, within its bounds."""
        # Outside the lock: a large tree takes a while, and no other silo is to wait for it.
        for tree in request.message_object_trees:
            self._check_tree(tree, context)
        with self.changed:
            asked = self._checked_reply(request, context)
            metadata = request.messages_list[0].metadata
            upload = self._upload(asked, metadata, request.message_object_trees[0], context)
            begun = self.instructions.partial.begun(asked.node)
            if _is_own(context):
                context.set_trailing_metadata(((BEGUN_HEADER, begun_to_header(begun)),))
            if asked.is_over:
                self.changed.notify_all()
            return PushMessagesResponse(
                results={metadata.message_id: 0},
                objects_to_push=sorted(upload.missing),
                session_id=upload.session,
            )

    def PushObject(
        self, request: PushObjectRequest, context: grpc.ServicerContext
    ) -> PushObjectResponse:
        """Take one object of a reply whose head is here."""
        node = request.node.node_id
        self.check_run(request.run_id, node, context)
        id = request.object_id
        size = len(request.object_content)
        with self.changed:
            asked = self.instructions.upload_of(node, request.session_id)
            upload = asked.upload if asked is not None else None
            if asked is None or upload is None:
                return PushObjectResponse(stored=False)
            if id not in upload.missing:
                # It is here: the answer to its first sending was lost on its way, or another silo's
                # reply has it too.
                here = self.instructions.store.is_held_by(asked.reply_holder, id)
                return PushObjectResponse(stored=here)
            self.check_room(node, size, context)
            # Counted before it is stored, so that two calls at once can't both pass the limit.
            upload.bytes += size
        stored = self.instructions.store.put(id, request.object_content)
        if stored:
            self.keep(asked, upload, Part(id, size, 0, request.object_content))
        with self.changed:
            if stored:
                self.instructions.object_came(asked, upload, id)
            else:
                upload.bytes -= size
            if asked.is_over:
                self.changed.notify_all()
        return PushObjectResponse(stored=stored)

    def check_run(self, run_id: int, node: int, context: grpc.ServicerContext) -> RunAccess:
        """Return the open run if it is the one that a node's call is about, and names the node."""
        access = self.access
        if access is None or access.run.run_id != run_id:
            refuse(context, "MDW-645", f"Run {run_id} is not open here.")
        if node not in access.nodes:
            refuse(context, "MDW-645", f"Run {run_id} does not name this silo.")
        return access

    def check_room(self, node: int, size: int, context: grpc.ServicerContext) -> None:
        """Refuse a call that brings more bytes than a node's replies may have; the caller holds the
        lock.
        """
        most = min(self.limits.update_bytes, self.instructions.may_upload(node))
        if self.instructions.uploaded_by(node) + size > most:
            refuse(context, "MDW-642", f"More than {most} bytes in flight.")

    def keep(self, asked: PendingInstruction, upload: Upload, part: Part) -> None:
        """Keep a part that has arrived on disk too, where its upload takes long."""
        kept = self.instructions.kept
        if kept is None or time.monotonic() - upload.began < kept.after:
            return
        if not kept.has(asked.node, asked.content):
            with self.changed:
                so_far = self.instructions.arrived(asked)
            kept.begin(asked.node, asked.content, so_far)
        kept.add(asked.node, asked.content, part)

    # Inside

    def _answers_for(self, node: int, context: grpc.ServicerContext) -> bool:
        """Return whether the process that calls answers for its silo (`twins`); stock nodes do."""
        process = _process(context)
        entry = self.nodes.get(node)
        if not process or entry is None:
            return True
        return self.twins.answers(node, entry.silo, process, context.peer())

    def _nothing_for_a_twin(
        self, node: int, end: float, context: grpc.ServicerContext
    ) -> PullMessagesResponse:
        """Let a twin's question for work wait as any other, and answer it with nothing.

        Earlier where the other process has gone: this one then asks again, and is given the work.
        """
        with self.changed:
            while not self.over and context.is_active() and time.monotonic() < end:
                self.changed.wait(1.0)
                if self._answers_for(node, context):
                    return PullMessagesResponse()
        header = OVER_HEADER if self.over else TWIN_HEADER
        context.set_trailing_metadata(((header, "1"),))
        return PullMessagesResponse()

    def _say_if_closed(self, node: int, context: grpc.ServicerContext) -> None:
        """Tell a node that works on something that nobody waits for it any more."""
        content = _header(context, WORKING_HEADER)
        if not content:
            return
        with self.changed:
            closed = self.instructions.is_closed(node, content)
        if closed:
            context.set_trailing_metadata(((CLOSED_HEADER, "1"),))

    def _question(self, node: int, context: grpc.ServicerContext) -> tuple[NodeEntry, int]:
        """Note a node's question for work, and return its node and its number."""
        own = _is_own(context)
        with self.changed:
            entry = self.nodes.get(node)
            if entry is None:
                refuse(context, "MDW-743", "The key is not admitted any more.")
            entry.question += 1
            # An earlier one that still waits gives way.
            self._work.tell(node)
            if own:
                self.instructions.forgive_lost(node)
                self.instructions.deliver_again(node)
            if not self.nodes.is_online(node):
                self.changed.notify_all()
            self.nodes.heard_from(node, own=own)
            trailing = [(PARTS_HEADER, "1")]
            if node in self.key_ends:
                trailing.append((KEY_ENDS, f"{self.key_ends[node]:.0f}"))
            context.set_trailing_metadata(tuple(trailing))
            return entry, entry.question

    def _is_asking(self, entry: NodeEntry, question: int, context: grpc.ServicerContext) -> bool:
        """Say whether somebody still waits for the answer: a message in an answer to nobody would
        be lost.
        """
        return (
            not self.over
            and context.is_active()
            and entry.question == question
            and self.nodes.is_online(entry.id)
        )

    def _upload(
        self,
        asked: PendingInstruction,
        metadata: MetadataProto,
        tree: ObjectTree,
        context: grpc.ServicerContext,
    ) -> Upload:
        """Return the upload that a checked head begins, or asks for again."""
        if asked.is_over:
            upload = asked.upload
            if upload is None or upload.metadata.message_id != metadata.message_id:
                refuse(context, "MDW-646", f"{asked.id[:12]} has been answered already.")
            return upload
        return self.instructions.begin_reply(asked, metadata_from_proto(metadata), tree)

    def _check_tree(self, tree: ObjectTree, context: grpc.ServicerContext) -> None:
        try:
            tree_size(tree, self.limits.objects)
        except WireError as error:
            refuse(context, error.code, error.message)
        if not all(is_valid_sha256_hash(node.object_id) for node in iterate_object_tree(tree)):
            refuse(context, "MDW-644", "An object's name is not a SHA-256.")

    def _checked_reply(
        self, request: PushMessagesRequest, context: grpc.ServicerContext
    ) -> PendingInstruction:
        """Return the instruction that a reply's head answers, if it is fit to answer it."""
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            refuse(context, "MDW-644", "A call carries one reply.")
        metadata = request.messages_list[0].metadata
        tree = request.message_object_trees[0]
        self.check_run(metadata.run_id, request.node.node_id, context)
        asked = self.instructions.get(metadata.reply_to_message_id)
        if asked is None or asked.node != request.node.node_id:
            refuse(
                context,
                "MDW-645",
                "Nobody waits for this reply; the round it belongs to has closed.",
            )
        sent = asked.message.metadata
        fits = (
            metadata.src_node_id == asked.node
            and metadata.dst_node_id == sent.src_node_id
            and metadata.message_id == tree.object_id
            and metadata.message_type == sent.message_type
        )
        if not fits:
            refuse(context, "MDW-644", "The reply's metadata do not fit the instruction.")
        return asked


def _work(asked: PendingInstruction) -> PullMessagesResponse:
    """Return the answer that hands an instruction to its node: its head, and the tree of its
    objects.
    """
    head = message_to_proto(remove_content_from_message(asked.message))
    return PullMessagesResponse(messages_list=[head], message_object_trees=[asked.tree])


def _is_own(context: grpc.ServicerContext) -> bool:
    return bool(_process(context))


def _process(context: grpc.ServicerContext) -> str:
    """Return what names the process of a node of Meadow's own; empty for a stock one."""
    return _header(context, NODE_HEADER)


def _header(context: grpc.ServicerContext, name: str) -> str:
    return str(dict(context.invocation_metadata()).get(name, ""))[:MOST_HEADER]


def _check_interval(seconds: float, context: grpc.ServicerContext) -> None:
    if not is_interval(seconds):
        refuse(context, "MDW-644", f"A heartbeat interval of {seconds} s.")

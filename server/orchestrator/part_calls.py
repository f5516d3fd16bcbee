"""The calls by which objects travel in parts (`strategies.wire.transfer_calls`), at the server.

They move what `fleet` has agreed on: a node reads objects of its own pending instructions, and
sends objects of a reply whose head is here. A call that arrives is a sign of life.

    MDW-642 too large                     MDW-644 a malformed call
    MDW-650 a range beyond its object     MDW-651 an object that is not what its name says
"""

from __future__ import annotations

import time
from typing import Final

import grpc

from conf.errors import WireError
from server.orchestrator.fleet import Fleet
from server.orchestrator.instructions import PendingInstruction, Upload
from server.orchestrator.kept_uploads import Part as KeptPart
from server.orchestrator.refused import refuse
from server.orchestrator.transfer_progress import DOWN, UP
from strategies.wire.frames import joined, range_of
from strategies.wire.transfer_calls import (
    ABSENT,
    MOST_PARTS,
    SERVICE,
    TRANSFER_CALLS,
    Part,
    PartsResponse,
    PullPartsRequest,
    PushPartsRequest,
)

MOST_BYTES: Final = 8 * 2**20
"""Of one answer, whatever its node asks for."""


class PartCalls:
    """The service's calls, over the instructions and nodes of a `Fleet`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def PullParts(self, request: PullPartsRequest, context: grpc.ServicerContext) -> PartsResponse:
        """Return parts of objects of the node's own instructions."""
        node = request.node.node_id
        self._begin(request, context)
        fleet = self._fleet
        with fleet.changed:
            readable = fleet.instructions.readable(node, {part.object_id for part in request.parts})
        room = min(request.most, MOST_BYTES)
        if room <= 0:
            refuse(context, "MDW-644", f"A call for {request.most} bytes.")
        parts: list[Part] = []
        count = 0
        for asked in request.parts:
            content = fleet.instructions.store.get(asked.object_id)
            if content is None or asked.object_id not in readable:
                parts.append(Part(asked.object_id, size=ABSENT))
                continue
            size = len(content)
            if not 0 <= asked.start <= size:
                refuse(context, "MDW-650", f"Byte {asked.start} of an object of {size} bytes.")
            # None is broken to fill the room behind another: what comes whole is copied less often.
            fits = asked.start + room - count >= size or not count
            piece = range_of(content, asked.start, room - count if fits else 0)
            count += len(piece)
            parts.append(Part(asked.object_id, asked.start, size, piece))
        left = sum(max(0, part.size - part.start - len(part.content)) for part in parts)
        fleet.progress.moved(node, DOWN, count, request.left + left, time.monotonic())
        with fleet.changed:
            fleet.instructions.sent(node, {part.object_id for part in parts if part.is_whole})
        return PartsResponse(parts)

    def PushParts(self, request: PushPartsRequest, context: grpc.ServicerContext) -> PartsResponse:
        """Take parts of a reply's objects, and say how much of each is here."""
        node = request.node.node_id
        self._begin(request, context)
        fleet = self._fleet
        session = request.session_id
        if request.head is not None:
            # Whoever signed the call speaks for one node alone.
            request.head.node.CopyFrom(request.node)
            session = fleet.PushMessages(request.head, context).session_id
        answer: list[Part] = []
        for part in request.parts:
            with fleet.changed:
                asked = fleet.instructions.upload_of(node, session)
                upload = asked.upload if asked is not None else None
            if asked is None or upload is None:
                # Also where it ended between two parts: its node asks anew what is missing.
                return PartsResponse()
            here = self._take(asked, upload, part, context)
            answer.append(Part(part.object_id, here, part.size))
        count = sum(len(part.content) for part in request.parts)
        fleet.progress.moved(node, UP, count, request.left, time.monotonic())
        return PartsResponse(answer)

    def _begin(
        self, request: PullPartsRequest | PushPartsRequest, context: grpc.ServicerContext
    ) -> None:
        """Check what both calls have in common."""
        node = request.node.node_id
        self._fleet.check_run(request.run_id, node, context)
        if not 0 < len(request.parts) <= MOST_PARTS:
            refuse(context, "MDW-644", f"A call with {len(request.parts)} parts.")
        # A link that is busy with this transfer may hold up the heartbeat.
        self._fleet.nodes.heard_from(node)

    def _take(
        self, asked: PendingInstruction, upload: Upload, part: Part, context: grpc.ServicerContext
    ) -> int:
        """Take one part, and return how many of the first bytes of its object are here."""
        instructions = self._fleet.instructions
        id = part.object_id
        content = joined(part.content)
        size = len(content)
        with self._fleet.changed:
            if id not in upload.missing:
                if id not in instructions.store.ids_of(asked.reply_holder):
                    refuse(context, "MDW-644", "A part of an object that the reply does not have.")
                return part.size
            self._fleet.check_room(asked.node, size, context)
            # Counted before it is stored, so that two calls at once can't both pass the limit.
            upload.bytes += size
        try:
            whole = instructions.partial.add(asked.node, id, part.size, part.start, content)
        except WireError as error:
            refuse(context, error.code, error.message)
        here = 0 if whole is not None else instructions.partial.arrived(asked.node, id)
        stored = whole is not None and instructions.store.put_own(id, whole)
        self._fleet.keep(asked, upload, KeptPart(id, part.size, part.start, content))
        if whole is None:
            return here
        with self._fleet.changed:
            if stored:
                instructions.object_came(asked, upload, id)
            if asked.is_over:
                self._fleet.changed.notify_all()
        return part.size if stored else 0


def add_part_calls(servicer: PartCalls, server: grpc.Server) -> None:
    """Let a server answer the calls."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=request.from_bytes,
            response_serializer=PartsResponse.to_bytes,
        )
        for name, request in TRANSFER_CALLS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

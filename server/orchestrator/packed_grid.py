"""The wire packs, on the server: what passes this grid outwards is packed, what comes back is named
again.

A model that a silo has already is not sent again, and of one that was made of what it has only the
step is (`server.round.downlink`). What a silo has is what it answered to last; one that says that it
has it no more (MDW-687: its process is another one) is asked again with all of it.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run

from conf.errors import Interrupted, WireError
from server.round.downlink import Offer
from server.round.silo_grid import SiloGrid
from strategies.compression.step import Step
from strategies.wire import protocol
from strategies.wire.packing import PACKED, Bounds, pack_content, unpack_content

log = logging.getLogger(__name__)


NOT_THERE: Final = "MDW-687"
"""In the error of a silo that has not got the model that a step begins at."""
MOST_MISSED: Final = 2
"""Times that a node may not have it before it is sent whole models: its app may keep none."""


@dataclass(frozen=True)
class Asked:
    """A message with a model: to whom, the model's digest, and whether only a step was sent."""

    node: int
    model: str
    by_step: bool


class PackingGrid(SiloGrid):
    """A grid that can be wrapped: it knows which nodes read packed records."""

    @abstractmethod
    def packs(self, node: int) -> bool:
        """Say whether a node reads packed records: Meadow's own do."""


class PackedGrid(SiloGrid):
    """A grid that packs for the nodes that read packed records; strategies and the round loop see
    named arrays.
    """

    def __init__(self, grid: PackingGrid) -> None:
        self._grid = grid
        self._sent: dict[str, str] = {}
        """The longest layout that was sent under each record's name."""
        self._offer: Offer | None = None
        self._asked: dict[str, Asked] = {}
        """Messages with a model that has a name, by id."""
        self._holds: dict[int, str] = {}
        """The digest of the model that a node answered to last."""
        self._missed: Counter[int] = Counter()
        """How often, one after the other, a node had not got what a step began at."""

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._grid.run

    def now(self) -> float:
        """Return the time of the grid behind."""
        return self._grid.now()

    def names(self) -> dict[int, str]:
        """Return the silos by node id."""
        return self._grid.names()

    def twins(self) -> list[str]:
        """Return the silos whose key two processes use at this time."""
        return self._grid.twins()

    def is_own(self, node: int) -> bool:
        """See `SiloGrid`."""
        return self._grid.packs(node)

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are there."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> list[NodeInfo]:
        """See Flower's `Grid`."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages, each in the form that its node reads; a record that several share is
        packed once.
        """
        known: dict[int, tuple[ArrayRecord, str]] = {}
        asked = []
        packed = []
        for message in messages:
            content, model = self._in_form(message)
            asked.append(model)
            packed.append(self._packed(message, content, known))
        ids = self._grid.push_messages(packed)
        self._asked |= {id: one for id, one in zip(ids, asked, strict=True) if id and one}
        return ids

    def offer(self, offer: Offer) -> None:
        """See `SiloGrid`."""
        self._offer = offer

    def bytes_of(self, message: Message) -> int:
        """See `SiloGrid`."""
        return protocol.size(self._in_form(message)[0])

    def replies(
        self, message_ids: Iterable[str], timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield replies as they arrive, with named arrays; one that does not fit its layout is an
        error reply.
        """
        # Not a loop: it would hold on to the last reply.
        return map(self._unpacked, self._grid.replies(message_ids, timeout))

    def progress(self, message_id: str) -> str:
        """Return in a few words how far a node is with a message."""
        return self._grid.progress(message_id)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop the messages of a closed round."""
        forgotten = list(message_ids)
        for id in forgotten:
            if (asked := self._asked.pop(id, None)) is not None:
                # Nobody knows how far it came with it.
                self._holds.pop(asked.node, None)
        self._grid.forget(forgotten)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        return list(self.replies(message_ids, timeout=0))

    def _packed(
        self, message: Message, given: RecordDict, known: dict[int, tuple[ArrayRecord, str]]
    ) -> Message:
        arrays = protocol.records(given, ArrayRecord)
        if not arrays or not self._grid.packs(message.metadata.dst_node_id):
            return message
        content = pack_content(given, known)
        for name, record in arrays.items():
            layout = known[id(record)][1]
            # An answer has the whole model, also to a message that has not.
            if self._offer is None or len(layout) > len(self._sent.get(name, "")):
                self._sent[name] = layout
        return make_message(metadata=message.metadata, content=content)

    def _in_form(self, message: Message) -> tuple[RecordDict, Asked | None]:
        """Return what is sent of a message's content, and which model it is of if that has a name."""
        content = message.content
        node = message.metadata.dst_node_id
        offer = self._offer
        if offer is None or content.get(protocol.ARRAYS) is not offer.model:
            return content, None
        if not self._grid.packs(node):
            return content, None
        told = {protocol.STEP_TO: offer.digest}
        held = self._holds.get(node)
        if held is None or self._missed[node] >= MOST_MISSED:
            held = ""
        step = Step((), ArrayRecord(), ArrayRecord()) if held == offer.digest else offer.step
        if step is None or held not in (offer.digest, offer.before) or not held:
            whole = RecordDict({**content, protocol.STEP: ConfigRecord({**told})})
            return whole, Asked(node, offer.digest, by_step=False)
        told |= {protocol.STEP_FROM: held, protocol.STEP_CODED: json.dumps(step.coded)}
        stepped = RecordDict(
            {
                **content,
                protocol.ARRAYS: step.whole,
                protocol.CHANGE: step.change,
                protocol.STEP: ConfigRecord({**told}),
            }
        )
        return stepped, Asked(node, offer.digest, by_step=True)

    def _heard(self, reply: Message) -> Message:
        """Note which model a node has, and let one be asked again that has not got it any more."""
        asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if asked is None:
            return reply
        if not reply.has_error():
            self._holds[asked.node] = asked.model
            if asked.by_step:
                self._missed.pop(asked.node, None)
            return reply
        self._holds.pop(asked.node, None)
        if not asked.by_step or NOT_THERE not in (reply.error.reason or ""):
            return reply
        self._missed[asked.node] += 1
        log.info(
            "node %d has not got the model that was taken off from: it is sent whole", asked.node
        )
        # As one that has gone: who asks for its answer asks it again.
        gone = Error(ErrorCode.NODE_UNAVAILABLE, "it has not got the model before")
        return make_message(metadata=reply.metadata, error=gone)

    def _unpacked(self, reply: Message) -> Message:
        reply = self._heard(reply)
        if not reply.has_content() or PACKED not in reply.content:
            return reply
        bounds = Bounds().of_answers(list(self._sent.values()))
        try:
            content = unpack_content(reply.content, bounds)
        except Interrupted:
            raise
        except Exception as error:
            # Whatever it is: the one fault of the one silo whose reply this is.
            return make_message(metadata=reply.metadata, error=_unreadable(error))
        return make_message(metadata=reply.metadata, content=content)


def _unreadable(error: Exception) -> Error:
    """Return the error that takes the place of a reply whose arrays can't be made of it."""
    if not isinstance(error, WireError):
        log.error("a packed reply could not be read", exc_info=error)
        error = WireError(
            "MDW-643",
            f"A packed record can't be read: {type(error).__name__}.",
            "Run the same version of Meadow on both sides.",
        )
    return Error(ErrorCode.UNKNOWN, str(error))

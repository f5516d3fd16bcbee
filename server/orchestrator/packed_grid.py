"""The wire packs, on the server: what passes this grid outwards is packed, what comes back is named
again.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator

from flwr.app import ArrayRecord, Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run

from conf.errors import Interrupted, WireError
from server.round.silo_grid import SiloGrid
from strategies.wire import protocol
from strategies.wire.packing import PACKED, Bounds, pack_content, unpack_content

log = logging.getLogger(__name__)


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
        """The last layout that was sent under each record's name."""

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
        packed = [self._packed(message, known) for message in messages]
        return self._grid.push_messages(packed)

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
        self._grid.forget(message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        return list(self.replies(message_ids, timeout=0))

    def _packed(self, message: Message, known: dict[int, tuple[ArrayRecord, str]]) -> Message:
        arrays = protocol.records(message.content, ArrayRecord)
        if not arrays or not self._grid.packs(message.metadata.dst_node_id):
            return message
        content = pack_content(message.content, known)
        for name, record in arrays.items():
            self._sent[name] = known[id(record)][1]
        return make_message(metadata=message.metadata, content=content)

    def _unpacked(self, reply: Message) -> Message:
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

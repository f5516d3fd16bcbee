"""What every Grid of Meadow offers beside Flower's.

Names, replies as they arrive, closed rounds forgotten.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Final

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server.round.decoding import Decoding
from server.round.downlink import Offer
from server.round.sent_model import Known
from strategies.wire import protocol

NEVER_ASKED: Final = "it never asked for it"
"""The progress of a message that waits for its node, which is connected."""


class SiloGrid(Grid):
    """A Flower `Grid` that knows its silos by name and yields each reply as it arrives."""

    def now(self) -> float:
        """Return the time in seconds by which silos are late: one that a pause of this process
        need not move.
        """
        return time.monotonic()

    @abstractmethod
    def names(self) -> dict[int, str]:
        """Return the silos' names by node id."""

    @abstractmethod
    def get_node_ids(self) -> list[int]:
        """Return the nodes that are there."""

    def is_own(self, node: int) -> bool:
        """Say whether a node is a process of Meadow's own, which answers for its silo with a key."""
        return False

    def get_nodes(self) -> list[NodeInfo]:
        """Return these nodes with their silos' names."""
        names = self.names()
        return [NodeInfo(node_id=node, name=names[node]) for node in self.get_node_ids()]

    def twins(self) -> list[str]:
        """Return the silos whose key two processes use at this time."""
        return []

    @abstractmethod
    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages and return their ids, empty where a node can't be asked."""

    def bytes_of(self, message: Message) -> int:
        """Return the bytes of arrays that a message takes to its node."""
        return protocol.size(message.content)

    def progress(self, message_id: str) -> str:
        """Return in a few words how far a node is with a message; empty where nobody knows."""
        return ""

    def measure(self, sketch_seed: int | None, decoding: Decoding | None = None) -> None:
        """Let updates be measured where they are made, where that is a process of this grid's own;
        with a seed their changes are sketched, and with a `decoding` they are made whole first.
        """

    def offer(self, offer: Offer) -> None:
        """Learn how a model may be sent to who has the one before it; a grid of this machine's own
        sends it whole.
        """

    def measured(self, reply: Message) -> Known | None:
        """Return what a process of this grid's own measured of a reply, once; None where none did.

        It is never read from the reply: a silo measures nothing for the server.
        """
        return None

    @abstractmethod
    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        """Yield replies as they arrive, until all are there or `timeout` seconds have passed.

        None = no limit.
        """

    @abstractmethod
    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that are no longer waited for, and their replies when they come."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies that came within `timeout` seconds; later ones are dropped."""
        ids = self.push_messages(messages)
        try:
            return list(self.replies(ids, timeout))
        finally:
            self.forget(ids)

    def set_run(self, run: Run) -> None:
        """Part of Flower's interface; a grid of ours is made for one run."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message; Flower prefers its constructor by now."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

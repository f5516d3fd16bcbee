"""Send a round's messages over any Grid and yield each reply as it arrives, until the round closes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Error, Message
from flwr.serverapp import Grid

from server.round.grid import SiloGrid

log = logging.getLogger(__name__)

POLL_SECONDS = 0.01
"""Between two looks at a grid that cannot wake us (Flower's own)."""
TICK_SECONDS = 0.5
"""Between two looks at the clock, and at lost nodes that may be back."""
NODE_UNAVAILABLE = 5
"""Flower's error code for a node that has gone: it may come back, unlike an app that raised."""

Clock = Callable[[], float]


@dataclass
class Closing:
    """When an exchange ends; times in seconds (DESIGN: "A round closes").

    It ends when every node has answered or failed. With `quorum` replies admitted it also ends at `timeout`,
    or `grace` after the quorum. Without them it waits `patience` more for lost nodes to come back.
    """

    timeout: float
    quorum: int = 0
    grace: float | None = None
    patience: float = 0.0


@dataclass
class Exchange:
    """One phase of a round. `admitted` is set by the one who consumes the replies."""

    grid: Grid
    closing: Closing
    clock: Clock = time.monotonic
    admitted: int = 0
    waiting: dict[str, Message] = field(
        default_factory=dict
    )  # sent and not answered, by message id
    lost: dict[int, Message] = field(default_factory=dict)  # not answered because the node has gone
    late: set[str] = field(default_factory=set)  # open when the exchange ended

    def run(self, messages: Iterable[Message]) -> Iterator[tuple[int, Message]]:
        """Send the messages, then yield (node id, reply) in the order of arrival.

        An error reply is yielded once its node is given up: a node that has gone and comes back while the
        exchange is open is asked again instead.
        """
        start = self.clock()
        self._send(list(messages))
        try:
            yield from self._until(start + self.closing.timeout)
            if self.admitted < self.closing.quorum and (self.lost or self.waiting):
                log.warning(
                    "quorum not reached, waiting %.0f s for lost silos", self.closing.patience
                )
                yield from self._until(self.clock() + self.closing.patience, for_lost=True)
            for node, message in self.lost.items():
                yield node, _gone(message)
        finally:
            self.late = set(self.waiting)
            if self.late and isinstance(self.grid, SiloGrid):
                self.grid.forget(self.late)

    def _until(self, deadline: float, for_lost: bool = False) -> Iterator[tuple[int, Message]]:
        quorum_at: float | None = None
        while self.waiting or (for_lost and self.lost and self.admitted < self.closing.quorum):
            now = self.clock()
            if quorum_at is None and 0 < self.closing.quorum <= self.admitted:
                quorum_at = now
            if for_lost and quorum_at is not None:
                return
            limit = deadline
            if self.closing.grace is not None and quorum_at is not None:
                limit = min(limit, quorum_at + self.closing.grace)
            if now >= limit:
                return
            self._ask_again()
            for reply in self._next(min(limit - now, TICK_SECONDS)):
                yield from self._received(reply)

    def _received(self, reply: Message) -> Iterator[tuple[int, Message]]:
        sent = self.waiting.pop(reply.metadata.reply_to_message_id, None)
        if sent is None:
            log.info(
                "ignored a reply that nobody waits for, to message %s",
                reply.metadata.reply_to_message_id,
            )
        elif reply.has_error() and reply.error.code == NODE_UNAVAILABLE:
            self.lost[sent.metadata.dst_node_id] = sent
        else:
            yield sent.metadata.dst_node_id, reply

    def _send(self, messages: list[Message]) -> None:
        ids = list(self.grid.push_messages(messages))
        for message, id in zip(messages, ids, strict=False):
            if id:
                self.waiting[id] = message
            else:
                self.lost[message.metadata.dst_node_id] = message

    def _ask_again(self) -> None:
        if not self.lost:
            return
        back = [node for node in self.grid.get_node_ids() if node in self.lost]
        if back:
            log.info("asking %d silos again that have come back", len(back))
            self._send([_copy(self.lost.pop(node)) for node in back])

    def _next(self, seconds: float) -> Iterator[Message]:
        """Yield the replies of the next `seconds`; return earlier once there was at least one."""
        if not self.waiting:
            time.sleep(min(seconds, TICK_SECONDS))
            return
        if isinstance(self.grid, SiloGrid):
            yield from self.grid.replies(list(self.waiting), seconds)
            return
        end = time.monotonic() + seconds
        while True:
            replies = list(self.grid.pull_messages(list(self.waiting)))
            yield from replies
            if replies or time.monotonic() >= end:
                return
            time.sleep(POLL_SECONDS)


def _copy(message: Message) -> Message:
    m = message.metadata
    return Message(message.content, m.dst_node_id, m.message_type, ttl=m.ttl, group_id=m.group_id)


def _gone(message: Message) -> Message:
    return Message(
        Error(NODE_UNAVAILABLE, "the silo has gone and did not come back"), reply_to=message
    )

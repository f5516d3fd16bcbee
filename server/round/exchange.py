"""Send a round's messages over any Grid and yield each answer as it arrives, judged.

An exchange closes when every node has answered or failed; at its timeout, if its quorum was
reached; or some seconds of grace after the quorum. Without a quorum it stays open for some
patience, for silos that come back. Every node that was asked has one answer in the end: its reply,
or an error that says that it has gone or that it was late.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from flwr.app import Error, Message
from flwr.serverapp import Grid

from server.round.error_text import plain_reason
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.silo_grid import NEVER_ASKED, SiloGrid
from server.run.absence import GONE, IDLE, LATE

log = logging.getLogger(__name__)

POLL_SECONDS = 0.01
"""Between two looks at a grid that cannot wake us (Flower's own)."""
TICK_SECONDS = 0.5
"""Between two looks at the clock, and at lost nodes that may be back."""
NO_REPLY = 4
"""Flower's error code for a reply that is not there.

The node was asked and had not answered at the end.
"""
NODE_UNAVAILABLE = 5
"""Flower's error code for a node that has gone: it may come back, unlike an app that raised."""

Judge = Callable[[int, Message], Verdict]
"""Says of (node id, reply) whether the reply counts; must not raise for what a silo sent."""


class Answer(NamedTuple):
    """What one node answered, and what the judge said of it.

    Whoever reads an answer need not count it.
    """

    node: int
    reply: Message
    verdict: Verdict


@dataclass(frozen=True)
class Closing:
    """When an exchange closes; times in seconds.

    With `quorum` replies admitted it closes at `timeout`, or `grace` after the quorum where that is
    earlier. Without them it waits `patience` more. A quorum of 0 means that none is asked for: it
    closes at `timeout`.
    """

    timeout: float
    quorum: int = 0
    grace: float | None = None
    patience: float = 0.0


def without_error(node: int, reply: Message) -> Verdict:
    """Judge a reply by nothing but whether it is an error."""
    if not reply.has_error():
        return Admitted(0)
    reason = plain_reason(reply.error.reason)
    if reply.error.code == NO_REPLY:
        return Rejected(IDLE if reason.startswith(_NEVER_ASKED) else LATE, reason)
    return Rejected(GONE if reply.error.code == NODE_UNAVAILABLE else "MDW-304", reason)


class Step(Protocol):
    """How the messages of one phase become judged answers, in one call.

    The round loop knows a phase only as this. A protocol of several messages (secure aggregation)
    is another step: it may exchange as often as it needs to before it yields the answers that
    count.
    """

    def __call__(
        self, grid: Grid, messages: Iterable[Message], closing: Closing, judge: Judge
    ) -> Iterator[Answer]:
        """Yield one answer for each message, those that are admitted first."""


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    closing: Closing,
    judge: Judge = without_error,
    *,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Answer]:
    """Ask each node once, and again where it was lost and comes back.

    The `Step` of every algorithm so far. Without a `clock`, the grid's own is taken.
    """
    if clock is None:
        clock = grid.now if isinstance(grid, SiloGrid) else time.monotonic
    return Exchange(grid, closing, judge, clock, sleep).run(messages)


@dataclass
class Exchange:
    """One exchange: who has not answered yet, who is lost, how many replies were admitted."""

    grid: Grid
    closing: Closing
    judge: Judge = without_error
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    admitted: int = field(default=0, init=False)
    _waiting: dict[str, Message] = field(default_factory=dict, init=False)
    """Sent and not answered, by message id."""
    _lost: dict[int, Message] = field(default_factory=dict, init=False)
    """Not answered because the node has gone, by node id."""
    _next_ask: float = field(default=-math.inf, init=False)
    """When lost nodes may be asked again."""

    def run(self, messages: Iterable[Message]) -> Iterator[Answer]:
        """Send the messages, then yield the answers as they arrive, at last those that never came.

        A node that has gone and comes back while the exchange is open is asked again.
        """
        deadline = self.clock() + self.closing.timeout
        self._send(list(messages))
        late: list[tuple[Message, str]] = []
        try:
            yield from self._until(deadline)
            if self._quorum_is_missing() and (self._lost or self._waiting):
                seconds = self.closing.patience
                log.warning("quorum not reached, waiting %.0f s for lost silos", seconds)
                yield from self._for_the_quorum(self.clock() + seconds)
        finally:
            # Also where the reader breaks off: a reply that nobody waits for must not stay in the
            # grid.
            late = self._forget_late()
        for message in self._lost.values():
            yield self._judged(message, _error(message, NODE_UNAVAILABLE, _GONE))
        for message, why in late:
            yield self._judged(message, _error(message, NO_REPLY, why))

    def _until(self, deadline: float) -> Iterator[Answer]:
        """Yield answers until all are there, the deadline, or the end of the grace."""
        quorum_at: float | None = None
        while self._waiting:
            now = self.clock()
            if quorum_at is None and 0 < self.closing.quorum <= self.admitted:
                quorum_at = now
            limit = deadline
            if quorum_at is not None and self.closing.grace is not None:
                # The earlier of the two: a long grace must not outlast the round's own timeout.
                limit = min(deadline, quorum_at + self.closing.grace)
            if now >= limit:
                yield from self._last_look()
                return
            self._ask_again()
            yield from self._look(min(limit - now, TICK_SECONDS))

    def _for_the_quorum(self, deadline: float) -> Iterator[Answer]:
        """Yield answers of late silos, and of lost ones that are back, until the quorum."""
        while self._quorum_is_missing() and (self._waiting or self._lost):
            now = self.clock()
            if now >= deadline:
                yield from self._last_look()
                return
            self._ask_again()
            yield from self._look(min(deadline - now, TICK_SECONDS))

    def _last_look(self) -> Iterator[Answer]:
        # The clock may have jumped past the limit while an update was folded, or while this process
        # stood still.
        # A reply that is there by now came in time, as far as anybody can know: its silo must not
        # be called late.
        if self._waiting:
            yield from self._look(0.0)

    def _look(self, seconds: float) -> Iterator[Answer]:
        """Yield the answers of the next `seconds`."""
        for reply in self._replies(seconds):
            answer = self._received(reply)
            # Freed before the wait for the next one: a reply is as large as the model.
            del reply
            if answer is not None:
                yield answer
                del answer

    def _received(self, reply: Message) -> Answer | None:
        """Return a reply as the answer to its message.

        None where it answers nothing that is open.
        """
        message_id = reply.metadata.reply_to_message_id
        message = self._waiting.get(message_id)
        if message is None:
            log.info("ignored a reply that nobody waits for, to message %s", message_id)
            return None
        if reply.has_error():
            del self._waiting[message_id]
            if reply.error.code != NODE_UNAVAILABLE:
                return self._judged(message, reply)
            self._lost[message.metadata.dst_node_id] = message
            return None
        if reply.metadata.src_node_id != message.metadata.dst_node_id:
            # The message stays open: a stranger's answer must not cost the silo that was asked its
            # own.
            log.warning("ignored a reply of a node that was not asked, to message %s", message_id)
            return None
        del self._waiting[message_id]
        return self._judged(message, reply)

    def _judged(self, message: Message, reply: Message) -> Answer:
        """Judge and count a reply: the only place, so that yielded means counted."""
        node = message.metadata.dst_node_id
        verdict = self.judge(node, reply)
        if isinstance(verdict, Admitted):
            self.admitted += 1
        return Answer(node, reply, verdict)

    def _quorum_is_missing(self) -> bool:
        return self.admitted < self.closing.quorum

    def _send(self, messages: list[Message]) -> None:
        ids = list(self.grid.push_messages(messages))
        for message, message_id in zip(messages, ids, strict=True):
            if message_id:
                self._waiting[message_id] = message
            else:
                # The grid could not ask this node: lost, not forgotten, so that it is asked again
                # or named.
                self._lost[message.metadata.dst_node_id] = message

    def _ask_again(self) -> None:
        # Not at once: a grid may call a node there that is lost again the moment it is asked.
        if not self._lost or self.clock() < self._next_ask:
            return
        there = set(self.grid.get_node_ids())
        back = [node for node in self._lost if node in there]
        if back:
            log.info("asking %d silos again that have come back", len(back))
            self._next_ask = self.clock() + TICK_SECONDS
            self._send([_copy(self._lost.pop(node)) for node in back])

    def _forget_late(self) -> list[tuple[Message, str]]:
        """Tell the grid that the open messages are no longer waited for; return each with what is
        known of why it has no answer.
        """
        late = [(message, self._why_late(id)) for id, message in self._waiting.items()]
        if isinstance(self.grid, SiloGrid):
            # Also without any that are late: those that were lost hear now that it is over.
            self.grid.forget(set(self._waiting))
        self._waiting.clear()
        return late

    def _why_late(self, message_id: str) -> str:
        progress = self.grid.progress(message_id) if isinstance(self.grid, SiloGrid) else ""
        if progress == NEVER_ASKED:
            return _NEVER_ASKED
        return f"{_LATE} ({progress})" if progress else _LATE

    def _replies(self, seconds: float) -> Iterator[Message]:
        """Yield the replies of the next `seconds`; return earlier once there was at least one."""
        if not self._waiting:
            self.sleep(seconds)
            return
        if isinstance(self.grid, SiloGrid):
            yield from self.grid.replies(list(self._waiting), seconds)
            return
        end = self.clock() + seconds
        while True:
            replies = list(self.grid.pull_messages(list(self._waiting)))
            arrived = len(replies)
            while replies:
                yield replies.pop(0)
            if arrived or self.clock() >= end:
                return
            self.sleep(POLL_SECONDS)


_GONE = "the silo has gone and did not come back"
_LATE = "no reply before the round closed"
_NEVER_ASKED = "connected, but it never asked for its work before the round closed"


def _error(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code, reason), reply_to=message)


def _copy(message: Message) -> Message:
    # A message keeps the id and the metadata of its sending, so that the same one can't be sent a
    # second time.
    m = message.metadata
    return Message(message.content, m.dst_node_id, m.message_type, ttl=m.ttl, group_id=m.group_id)

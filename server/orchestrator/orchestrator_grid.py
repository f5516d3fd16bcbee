"""Flower's `Grid` over the instructions in this process: each reply is yielded at the moment when
it is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run

from conf.border import heard
from conf.errors import WireError
from server.orchestrator.fleet import Fleet
from server.orchestrator.instructions import PendingInstruction, State, release
from server.orchestrator.packed_grid import PackingGrid
from server.round.silo_grid import NEVER_ASKED
from strategies.wire.objects import inflate

log = logging.getLogger(__name__)

_OF_AN_APP: Final = (
    ErrorCode.UNKNOWN,
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    ErrorCode.MOD_FAILED_PRECONDITION,
    ErrorCode.INVALID_FAB,
    ErrorCode.CLIENT_APP_CRASHED,
)
TICK_SECONDS: Final = 0.5
"""Between two looks at nodes whose heartbeat may have run out; everything else wakes the grid."""

PROGRESS: Final = {
    State.ASKED: NEVER_ASKED,
    State.DELIVERED: "it was receiving the model",
    State.ARRIVED: "it was working on it",
    State.UPLOADING: "it was sending its answer",
}


class OrchestratorGrid(PackingGrid):
    """The silos of one open run.

    `silos` maps node ids to names, of every silo that the run names.
    """

    def __init__(self, fleet: Fleet, run: Run, silos: Mapping[int, str]) -> None:
        self._fleet = fleet
        self._run = run
        self._silos = dict(silos)
        self._next_look = 0.0  # at nodes that may have gone

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def now(self) -> float:
        """Return the seconds for which this process was running."""
        return self._fleet.clock()

    def add(self, node: int, silo: str) -> None:
        """Let another node of a silo take part."""
        self._silos[node] = silo

    def names(self) -> dict[int, str]:
        """Return the run's silos with an admitted key by node id; of one with two keys, the node
        last heard of.
        """
        entries = [one for one in self._fleet.nodes.entries() if one.id in self._silos]
        latest: dict[str, int] = {}
        for entry in sorted(entries, key=lambda one: (one.online_until, one.id)):
            latest[self._silos[entry.id]] = entry.id
        return {node: name for name, node in sorted(latest.items())}

    def get_node_ids(self) -> list[int]:
        """Return the nodes of the run that are there, in the order of their silos' names."""
        return [node for node in self.names() if self._fleet.nodes.is_online(node)]

    def twins(self) -> list[str]:
        """Return the silos whose key two processes use at this time."""
        return sorted({self._silos[n] for n in self._fleet.twins.nodes() if n in self._silos})

    def packs(self, node: int) -> bool:
        """Say whether a node reads packed records: Meadow's own do."""
        return self._fleet.nodes.is_own(node)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages and return their ids, empty where a node can't be asked."""
        sent = list(messages)
        ids = [
            self._fleet.enqueue(message) if message.metadata.dst_node_id in self._silos else None
            for message in sent
        ]
        for message in sent:
            release(message)
        return [id or "" for id in ids]

    def replies(
        self, message_ids: Iterable[str], timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield replies as they arrive until all are there or `timeout` seconds have passed.

        A node that has gone before it answered is yielded as an error, NODE_UNAVAILABLE.
        """
        waiting = {id for id in message_ids if self._fleet.instructions.get(id) is not None}
        deadline = None if timeout is None else self.now() + timeout
        while waiting:
            ready = self._ready(waiting, deadline)
            if not ready:
                return
            for id in ready:
                waiting.discard(id)
                asked = self._fleet.instructions.get(id)
                if asked is not None:
                    yield self._take(asked)

    def progress(self, message_id: str) -> str:
        """Return in a few words how far a node is with a message."""
        asked = self._fleet.instructions.get(message_id)
        return PROGRESS.get(asked.state, "") if asked is not None else ""

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop the messages of a closed round; a reply that still comes is refused."""
        for id in message_ids:
            self._fleet.close(id)
        with self._fleet.changed:
            self._fleet.instructions.end_exchange()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        return list(self.replies(message_ids, timeout=0))

    def _ready(self, waiting: set[str], deadline: float | None) -> list[str]:
        """Wait until replies are complete or their nodes are gone, and return the messages they
        answer.
        """
        with self._fleet.changed:
            while True:
                left = TICK_SECONDS
                if deadline is not None:
                    left = min(left, deadline - self.now())
                ready = self._fleet.instructions.over_among(waiting)
                if not ready:
                    ready = self._gone(waiting, last_look=left <= 0)
                if ready or left <= 0:
                    return ready
                self._fleet.changed.wait(left)

    def _gone(self, waiting: set[str], last_look: bool) -> list[str]:
        """Return the messages whose nodes are gone, or that are closed; none between two ticks.

        Each reply wakes who waits for all of them: to look at every node each time would cost the
        square of their number.
        """
        now = self.now()
        if now < self._next_look and not last_look:
            return []
        self._next_look = now + TICK_SECONDS
        return [id for id in waiting if self._is_gone(id)]

    def _is_gone(self, id: str) -> bool:
        asked = self._fleet.instructions.get(id)
        return asked is None or not self._fleet.nodes.is_online(asked.node)

    def _take(self, asked: PendingInstruction) -> Message:
        """Return the reply to an instruction, or the error that stands for it; the instruction is
        closed.
        """
        with self._fleet.changed:
            state = asked.state
            contents = self._fleet.instructions.store.held_by(asked.reply_holder)
            self._fleet.instructions.close(asked.id, node_gone=True)
        if asked.error is not None:
            return Message(asked.error, reply_to=asked.message)
        if state is not State.ANSWERED or asked.upload is None:
            gone = Error(ErrorCode.NODE_UNAVAILABLE, f"{asked.silo} has gone before it answered")
            return Message(gone, reply_to=asked.message)
        metadata = asked.upload.metadata
        try:
            # The store takes an object for what its digest says, and for nothing else.
            # A chunk may be in it many times: five megabytes could say that they are four gigabytes.
            most = min(self._fleet.limits.update_bytes, asked.reply_bytes)
            content = inflate(metadata.message_id, contents, most, hashed=True)
        except WireError as error:
            return Message(Error(ErrorCode.UNKNOWN, str(error)), reply_to=asked.message)
        if isinstance(content, Error):
            return make_message(metadata=metadata, error=_as_heard(content))
        return make_message(metadata=metadata, content=content)


def _as_heard(error: Error) -> Error:
    """Return a silo's error as the server repeats it: in one marked line, and of a code that says
    nothing of the node itself.
    """
    # A silo that called itself gone would be asked again and again.
    code = error.code if error.code in _OF_AN_APP else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Error(code, heard(error.reason))

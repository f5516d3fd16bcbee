"""The Grid that Flower's simulation gives to a ServerApp, with names, replies as they arrive, and a
way to end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.superlink.grid import InMemoryGrid

from conf.errors import Interrupted, SiloError
from conf.schema import Silo
from server.round.error_text import plain_reason
from server.round.silo_grid import SiloGrid

POLL_SECONDS = 0.005
"""Between two looks for replies: a look costs 0.03 to 0.6 ms."""
NODES_SECONDS = 60.0
"""For Flower to register its nodes, which takes some 30 ms."""


@dataclass
class Watch:
    """What the engine and its Grid tell each other across threads."""

    stop: threading.Event = field(default_factory=threading.Event)  # Ctrl-C or SIGTERM
    forgotten: set[str] = field(default_factory=set)  # messages whose round is closed
    lost: SiloError | None = None  # an actor died
    ending: bool = False  # the ServerApp is done: nothing that fails from now on matters

    def check(self) -> None:
        """Raise what ends the run, if anything does."""
        if self.lost is not None:
            raise self.lost
        if self.stop.is_set():
            raise Interrupted("MDW-900", "The run was asked to stop.", "Go on with run.resume.")


class RayGrid(SiloGrid):
    """Flower's `InMemoryGrid` for these silos.

    Raises SiloError MDW-320 when an actor died, Interrupted on Ctrl-C.
    """

    def __init__(self, grid: Grid, silos: list[Silo], watch: Watch) -> None:
        assert isinstance(grid, InMemoryGrid)
        self._grid, self._silos, self._watch = grid, silos, watch
        grid.pull_interval = POLL_SECONDS
        self._open: set[str] = set()

    @property
    def run(self) -> Run:
        """See `Grid`."""
        return self._grid.run

    def names(self) -> dict[int, str]:
        """Return the silos' names by node id; Flower registers the nodes in the order of the
        partitions.
        """
        ids = [node.node_id for node in self.get_nodes()]
        return {id: silo.name for id, silo in zip(ids, self._silos, strict=True)}

    def get_node_ids(self) -> list[int]:
        """Return the node ids in the order of the silos."""
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> list[NodeInfo]:
        """Return all nodes, once Flower has registered them."""
        deadline = time.monotonic() + NODES_SECONDS
        while len(nodes := list(self._grid.state.get_node_info())) < len(self._silos):
            self._watch.check()
            if time.monotonic() > deadline:
                raise SiloError(
                    "MDW-321",
                    f"Flower registered {len(nodes)} of {len(self._silos)} nodes.",
                    "Try again.",
                )
            time.sleep(POLL_SECONDS)
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """See `Grid`."""
        self._watch.check()
        ids = list(self._grid.push_messages(messages))
        self._open.update(ids)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there; an error says why in one line."""
        self._watch.check()
        wanted = self._open.intersection(message_ids)
        replies = list(self._grid.pull_messages(wanted)) if wanted else []
        for reply in replies:
            self._open.discard(reply.metadata.reply_to_message_id)
            if reply.has_error():
                reply.error = Error(reply.error.code, plain_reason(reply.error.reason))
        self._watch.check()
        return replies

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        """Yield replies as they arrive, until all are there or `timeout` seconds have passed; None
        = no limit.
        """
        wanted = self._open.intersection(message_ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        while wanted:
            for reply in self.pull_messages(wanted):
                wanted.discard(reply.metadata.reply_to_message_id)
                yield reply
            if not wanted or (deadline is not None and time.monotonic() >= deadline):
                return
            self._watch.stop.wait(POLL_SECONDS)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that are no longer waited for, and their replies when they come."""
        gone = self._open.intersection(message_ids)
        self._open -= gone
        self._watch.forgotten |= gone
        self._grid.state.delete_messages(message_ins_ids=set(gone))

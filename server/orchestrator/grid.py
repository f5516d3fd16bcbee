"""Flower's `Grid` over the LinkState in this process: replies are yielded in the moment in which they are complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run

from conf.errors import WireError
from server.orchestrator.fleet import Fleet, Open, objects_of, release
from server.orchestrator.packed_grid import PackingGrid
from strategies.wire.objects import inflate

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5
"""Between two looks at nodes whose heartbeat may have run out; everything else wakes the grid."""


class OrchestratorGrid(PackingGrid):
    """The silos of one open run. `silos` maps node ids to names, of every silo that the run names."""

    def __init__(self, fleet: Fleet, run: Run, silos: Mapping[int, str]) -> None:
        self._fleet, self._run, self._silos = fleet, run, dict(silos)

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def add(self, node: int, silo: str) -> None:
        """Let another node of a silo take part."""
        self._silos[node] = silo

    def names(self) -> dict[int, str]:
        """Return the run's silos with an admitted key by node id; of one with two keys, the node last heard of."""
        latest: dict[str, int] = {}
        for node in sorted(
            self._silos.keys() & self._fleet.link.nodes.keys(), key=self._last_heard
        ):
            latest[self._silos[node]] = node
        return {node: name for name, node in sorted(latest.items())}

    def get_node_ids(self) -> list[int]:
        """Return the nodes of the run that are there, in the order of their silos' names."""
        return [node for node in self.names() if self._fleet.link.is_online(node)]

    def get_nodes(self) -> list[NodeInfo]:
        """See Flower's `Grid`."""
        return list(self._fleet.link.get_node_info(node_ids=self.get_node_ids()))

    def packs(self, node: int) -> bool:
        """Say whether a node reads packed records: Meadow's own do."""
        return self._fleet.is_own(node)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages and return their ids, empty where a node can't be asked."""
        sent = list(messages)
        ids = [
            self._fleet.ask(message) if message.metadata.dst_node_id in self._silos else None
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
        waiting = {id for id in message_ids if id in self._fleet.open}
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting:
            ready = self._ready(waiting, deadline)
            if not ready:
                return
            for id in ready:
                waiting.discard(id)
                asked = self._fleet.open.get(id)
                if asked is not None:
                    yield self._take(id, asked)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop the messages of a closed round; a reply that still comes is refused."""
        for id in message_ids:
            self._fleet.close(id)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        return list(self.replies(message_ids, timeout=0))

    def _ready(self, waiting: set[str], deadline: float | None) -> list[str]:
        """Wait until replies are complete or their nodes are gone, and return the messages they answer."""
        with self._fleet.changed:
            while True:
                ready = [id for id in waiting if self._is_ready(id)]
                left = (
                    TICK_SECONDS
                    if deadline is None
                    else min(TICK_SECONDS, deadline - time.monotonic())
                )
                if ready or left <= 0:
                    return ready
                self._fleet.changed.wait(left)

    def _is_ready(self, id: str) -> bool:
        asked = self._fleet.open.get(id)
        return asked is None or asked.answered or not self._fleet.link.is_online(asked.node)

    def _take(self, id: str, asked: Open) -> Message:
        try:
            head = self._fleet.link.reply_head(id)
            if not asked.answered or head is None or asked.upload is None:
                silo = self._silos.get(asked.node, "a silo")
                return self._error(
                    asked.message, ErrorCode.NODE_UNAVAILABLE, f"{silo} has gone before it answered"
                )
            contents = dict(objects_of(self._fleet, asked.upload.reply_id))
            self._fleet.store.delete(asked.upload.reply_id)
            content = inflate(asked.upload.reply_id, contents, self._fleet.limits.update_bytes)
        except WireError as error:
            return self._error(asked.message, ErrorCode.UNKNOWN, str(error))
        finally:
            self._fleet.close(id)
        if isinstance(content, Error):
            return make_message(metadata=head.metadata, error=content)
        return make_message(metadata=head.metadata, content=content)

    def _error(self, message: Message, code: int, why: str) -> Message:
        return Message(Error(code, why), reply_to=message)

    def _last_heard(self, node: int) -> float:
        info = self._fleet.link.nodes.get(node)
        return float(info.online_until or 0.0) if info is not None else 0.0

"""A grid of nodes that nobody runs, for what has to be tried before there are any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.supercore.run import Run

from server.round.silo_grid import SiloGrid


class ImaginedGrid(SiloGrid):
    """Shows `count` nodes, takes no message and yields no reply."""

    def __init__(self, count: int) -> None:
        self._names = {node: f"silo-{node}" for node in range(1, count + 1)}

    @property
    def run(self) -> Run:
        """Part of Flower's interface; no run has been opened."""
        return Run.create_empty(0)

    def names(self) -> dict[int, str]:
        """See `SiloGrid`."""
        return dict(self._names)

    def get_node_ids(self) -> list[int]:
        """See `SiloGrid`."""
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """No node can be asked."""
        return ["" for _ in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """No node answers."""
        return []

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        """No node answers."""
        return iter(())

    def forget(self, message_ids: Iterable[str]) -> None:
        """Nothing was sent."""

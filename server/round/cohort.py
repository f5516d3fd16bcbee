"""Who takes part in a round, and the grid that shows a strategy just those."""

from __future__ import annotations

import random
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from conf.seeds import seed_for


def select(silos: list[str], *, cohort: int | None, seed: int, round: int) -> list[str]:
    """Return the names of a round's cohort, sorted.

    A seeded draw where the cohort is smaller than the federation.
    """
    names = sorted(silos)
    if cohort is None or cohort >= len(names):
        return names
    return sorted(random.Random(seed_for(seed, "server", round, "selection")).sample(names, cohort))


class CohortGrid(Grid):
    """A grid as a strategy sees it in one round: the cohort's nodes and no other."""

    def __init__(self, grid: Grid, nodes: list[int]) -> None:
        self._grid, self._nodes = grid, nodes

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the cohort's nodes."""
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what Flower knows of the cohort's nodes."""
        return [node for node in self._grid.get_nodes() if node.node_id in self._nodes]

    def set_run(self, run: Run) -> None:
        """Pass on to the grid behind."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid behind."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on to the grid behind."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on to the grid behind."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on to the grid behind."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on to the grid behind."""
        return self._grid.send_and_receive(messages, timeout=timeout)

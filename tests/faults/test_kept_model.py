"""What has arrived at a node need not come again: bytes are counted at the socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation, ask, model
from tests.faults.proxy import Proxy

ELEMENTS = 1_500_000
BYTES = 4 * ELEMENTS
REST = 200_000
"""Bytes of what else is said in a round, at most: heads, heartbeats, the handshake."""


@dataclass
class Line:
    """One silo behind a proxy that counts."""

    orchestrator: Orchestrator
    proxy: Proxy
    grid: PackedGrid

    def received(self, round: int, arrays: ArrayRecord) -> int:
        """Ask the silo, and return how many bytes came down to it until it had answered."""
        before = self.proxy.returned
        ids = self.grid.push_messages(ask(self.grid, round, arrays))
        (reply,) = self.grid.replies(ids, 60)
        assert not reply.has_error(), reply.error
        (expected, *_) = arrays.values()
        (found, *_) = reply.content["arrays"].values()
        assert np.array_equal(found.numpy(), expected.numpy() + 1)
        return self.proxy.returned - before


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path, silos=1)


@pytest.fixture
def line(federation: Federation) -> Iterator[Line]:
    with federation.orchestrator() as orchestrator:
        proxy = Proxy(orchestrator.address)
        yield Line(orchestrator, proxy, PackedGrid(orchestrator.open_run("run", ["silo-1"])))
        proxy.close()


def test_a_model_comes_once_however_often_it_is_asked_of(
    federation: Federation, line: Line
) -> None:
    first = model(ELEMENTS, arrays=1, seed=1)
    second = model(ELEMENTS, arrays=1, seed=2)
    with federation.thread_node(line.proxy.address, federation.silos[0]):
        line.orchestrator.wait_for(["silo-1"], 1, 20)
        assert BYTES < line.received(1, first) < BYTES + REST
        assert line.received(2, first) < REST
        assert BYTES < line.received(3, second) < BYTES + REST
        assert line.received(4, second) < REST
        # Only the last one is kept: a node's memory does not grow with the rounds.
        assert BYTES < line.received(5, first) < BYTES + REST


def test_a_node_that_was_started_again_is_sent_all_of_it(
    federation: Federation, line: Line
) -> None:
    one = model(ELEMENTS, arrays=1, seed=1)
    for round in (1, 2):
        with federation.thread_node(line.proxy.address, federation.silos[0]):
            line.orchestrator.wait_for(["silo-1"], 1, 20)
            assert BYTES < line.received(round, one) < BYTES + REST


def test_a_silo_is_sent_of_a_model_what_it_lacks(federation: Federation, line: Line) -> None:
    # Two chunks of 5 MiB, and the rest: of the next model the first two are the same.
    values = np.random.default_rng(1).standard_normal(3_000_000).astype(np.float32)
    changed = values.copy()
    changed[-1] = 7
    with federation.thread_node(line.proxy.address, federation.silos[0]):
        line.orchestrator.wait_for(["silo-1"], 1, 20)
        assert line.received(1, _record(values)) > 12_000_000
        assert line.received(2, _record(changed)) < 12_000_000 - 2 * 5 * 2**20 + REST


def _record(values: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"w": Array(values)})

"""The orchestrator and the node, over real gRPC with TLS and node keys on loopback."""

from __future__ import annotations

from pathlib import Path

from server.packed_grid import PackedGrid
from tests.faults.federation import Federation, ask, model, total


def test_three_rounds_with_two_silos_in_their_own_processes(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        first = federation.process_node(orchestrator.address, federation.silos[0])
        second = federation.process_node(orchestrator.address, federation.silos[1])
        with first as one, second as two:
            names = [silo.name for silo in federation.silos]
            assert orchestrator.wait_for(names, quorum=2, timeout=60) == names
            grid = PackedGrid(orchestrator.open_run("run", names))
            for round in (1, 2, 3):
                replies = grid.send_and_receive(ask(grid, round, model()), timeout=30)
                assert total(replies) == 3 * 1000 * (1 + 2) + 3
                assert [m.content["metrics"]["rounds-seen"] for m in replies] == [round, round]
            orchestrator.stop(over=True)
            assert (one.wait(10), two.wait(10)) == (0, 0)
            assert "the federation is over" in one.text()

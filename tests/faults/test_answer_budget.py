"""A silo that is killed over and over gives no more answers than its owner allows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from flwr.app import Message

from conf.schema import PolicyConf
from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import Federation, ask, model


@pytest.mark.slow
def test_the_budget_of_a_silo_outlives_its_process(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    policy = PolicyConf(answers_at_most=2)
    silo = dataclasses.replace(federation.silos[0], policy=policy)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    with federation.orchestrator() as orchestrator:
        grid = None
        answers: list[Message] = []
        for round in (1, 2, 3):
            # Each process is killed at the end of its block, its lease still held.
            with federation.process_node(orchestrator.address, silo, "--state", str(state)):
                orchestrator.wait_for(["silo-1"], 1, 60)
                if grid is None:
                    grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
                answers += grid.send_and_receive(ask(grid, round, model(seed=round)), timeout=90)
        assert [reply.has_content() for reply in answers] == [True, True, False]
        assert str(answers[-1].error.reason) == "the silo says MDW-352 (allowed 2, given 2)"

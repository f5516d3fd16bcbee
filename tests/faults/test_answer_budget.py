"""A silo that is killed over and over gives no more answers than its owner allows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode

from conf.schema import PolicyConf
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation, ask, model


def answered(orchestrator: Orchestrator, grid: PackedGrid, round: int) -> Message:
    """Return a silo's answer; asked again, as a round does it, where its process was lost before.

    A process that was killed counts as there for 20 s, and the next one may take longer to start.
    """
    for _ in range(3):
        orchestrator.wait_for(["silo-1"], 1, 120)
        (reply,) = grid.send_and_receive(ask(grid, round, model(seed=round)), timeout=120)
        if not reply.has_error() or reply.error.code != ErrorCode.NODE_UNAVAILABLE:
            break
    return reply


@pytest.mark.slow
def test_the_budget_of_a_silo_outlives_its_process(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    policy = PolicyConf(answers_at_most=2)
    silo = dataclasses.replace(federation.silos[0], policy=policy)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    with federation.orchestrator() as orchestrator:
        answers: list[Message] = []
        for round in (1, 2, 3):
            # Each process is killed at the end of its block, its lease still held.
            with federation.process_node(orchestrator.address, silo, "--state", str(state)):
                if round == 1:
                    orchestrator.wait_for(["silo-1"], 1, 60)
                    grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
                answers.append(answered(orchestrator, grid, round))
        assert [reply.has_content() for reply in answers] == [True, True, False]
        assert str(answers[-1].error.reason) == "the silo says MDW-352 (allowed 2, given 2)"

"""A silo whose device is lost answers with a code, and its successor answers the next round."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conf.schema import Silo, TrainingProcessConf
from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import Federation, ask, model

APP = "tests.gpu.poisoned_silo:app"


@pytest.mark.parametrize(
    "apart",
    [
        pytest.param(False, id="in the node"),
        pytest.param(True, id="in a process of its own", marks=pytest.mark.slow),
    ],
)
def test_it_costs_one_round_at_that_silo(tmp_path: Path, apart: bool) -> None:
    federation = Federation(tmp_path, silos=1)
    silo: Silo = federation.silos[0]
    if apart:
        silo = dataclasses.replace(silo, training=TrainingProcessConf(separate=True))
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, silo, app=APP) as node,
    ):
        orchestrator.wait_for(["silo-1"], 1, 60)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        for round in (1, 2):
            lost = grid.send_and_receive(ask(grid, round, model(), poison="silo-1"), timeout=60)
            (reply,) = list(lost)
            assert reply.has_error() and "MDW-226" in str(reply.error.reason)
            # The text stays at the silo: it may name what is on its machine.
            assert "device-side assert" not in str(reply.error.reason)
            orchestrator.wait_for(["silo-1"], 1, 60)
        (good,) = grid.send_and_receive(ask(grid, 3, model(), poison=""), timeout=60)
        assert good.has_content()
        assert node.process.poll() is None, "whatever started it sees one process that goes on"
        text = node.text()
        assert text.count("starts again in its own place") == (0 if apart else 2)
        assert text.count("silo-1 is connected") == (1 if apart else 3)

"""The process in which a silo trains is killed in mid-round: that round's answer is a coded failure, and nothing else
is lost. The node keeps its connection, and its silo answers the next round.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from conf.schema import TrainingProcessConf
from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import Federation, ask, model, until


def reason(replies: Any) -> str:
    (reply,) = list(replies)
    assert isinstance(reply, Message) and reply.has_error()
    return str(reply.error.reason)


def arrived(grid: PackedGrid, ids: list[str], found: list[Message]) -> bool:
    found += grid.pull_messages(ids)
    return bool(found)


@pytest.mark.parametrize(
    "how", ["it kills itself", pytest.param("from outside", marks=pytest.mark.slow)]
)
def test_killed_in_mid_round_it_costs_the_round_and_the_node_goes_on(
    tmp_path: Path, how: str
) -> None:
    federation = Federation(tmp_path, silos=1)
    silo = dataclasses.replace(federation.silos[0], training=TrainingProcessConf(separate=True))
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, silo) as node,
    ):
        orchestrator.wait_for(["silo-1"], 1, 60)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        trained = tmp_path / "trained.jsonl"
        told: dict[str, Any] = {"trained-file": str(trained)}
        (first,) = grid.send_and_receive(ask(grid, 1, model(), **told), timeout=60)
        assert first.has_content()
        if how == "it kills itself":
            told["kill"] = "silo-1"
            lost = grid.send_and_receive(ask(grid, 2, model(), **told), timeout=60)
        else:
            ids = list(grid.push_messages(ask(grid, 2, model(), sleep=600, **told)))
            until(lambda: trained.read_text().count("\n") == 2, 30)
            pid = int(trained.read_text().splitlines()[-1].split('"pid": ')[1].rstrip("}"))
            assert pid != node.process.pid
            os.kill(pid, signal.SIGKILL)
            found: list[Message] = []
            until(lambda: arrived(grid, ids, found), 30)
            lost = found
        assert "MDW-353" in reason(lost) and "SIGKILL" in reason(lost)
        told.pop("kill", None)
        (third,) = grid.send_and_receive(ask(grid, 3, model(), **told), timeout=60)
        assert third.has_content() and node.process.poll() is None
        assert node.text().count("silo-1 is connected") == 1, "the node never lost its place"

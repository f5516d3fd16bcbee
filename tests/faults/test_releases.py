"""Two releases of Flower in one federation: `make test-flower` runs this with the lowest and the newest, both ways.

MEADOW_OTHER_FLOWER names a Python that has the other release; without it there is nothing to test here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import ROOT, Federation, ask, free_port, lines, model, total, until
from tests.faults.stock import (
    TOY,
    app_folder,
    bundle,
    flower_of,
    node_config,
    nodes_speak_grpc,
    stock,
)
from tests.faults.test_interoperation import SERVER

OTHER = os.environ.get("MEADOW_OTHER_FLOWER", "")
pytestmark = [
    pytest.mark.skipif(not OTHER, reason="needs a second release of Flower: make test-flower"),
    pytest.mark.slow,
]


def test_there_are_two_releases() -> None:
    assert flower_of(sys.executable) != flower_of(OTHER)


def test_a_node_of_the_other_release_trains_beside_one_of_this(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    theirs, ours = federation.silos
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, theirs, python=OTHER) as node,
        federation.thread_node(orchestrator.address, ours),
    ):
        orchestrator.wait_for(["silo-1", "silo-2"], 2, 60)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1", "silo-2"]))
        for round in (1, 2):
            replies = grid.send_and_receive(ask(grid, round, model()), timeout=60)
            assert total(replies) == 3 * 1000 * (1 + 2) + 3, node.text()
        orchestrator.stop(over=True)
        assert node.wait(10) == 0


def test_nodes_of_this_release_train_for_an_orchestrator_of_the_other(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [OTHER, "-m", "tests.faults.toy_server", str(tmp_path), str(port), "2", "2"]
    with (
        subprocess.Popen(command, cwd=ROOT) as server,
        federation.process_node(address, federation.silos[0]),
        federation.process_node(address, federation.silos[1]),
    ):
        assert server.wait(100) == 0
    events = lines(tmp_path / "events.jsonl")
    assert events[-1]["event"] == "done"
    trained = {(one["silo"], one["round"]) for one in lines(tmp_path / "trained.jsonl")}
    assert trained == {("silo-1", 1), ("silo-2", 1), ("silo-1", 2), ("silo-2", 2)}


@pytest.mark.skipif(
    not OTHER or not nodes_speak_grpc(OTHER), reason="the other release's nodes speak HTTP only"
)
def test_a_stock_node_of_the_other_release_joins_our_orchestrator(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    app = app_folder(tmp_path, TOY)
    opened = federation.orchestrator(stock_grpc="127.0.0.1:0")
    with opened as orchestrator, stock(federation, OTHER) as flower:
        assert orchestrator.stock_grpc_address is not None
        flower.supernode(
            "silo-1", orchestrator.stock_grpc_address, node_config(federation.silos[0])
        )
        orchestrator.wait_for(["silo-1"], 1, 90)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"], bundle=bundle(app)))
        for round in (1, 2):
            replies = grid.send_and_receive(ask(grid, round, model()), timeout=90)
            assert [m.error.reason for m in replies if m.has_error()] == [], flower.logs()
            assert total(replies) == 3 * 1000 + 1


def test_our_node_joins_a_stock_superlink_of_the_other_release(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    out = tmp_path / "out.json"
    app = app_folder(tmp_path, SERVER, {"out": str(out)})
    with stock(federation, OTHER) as flower:
        flower.superlink()
        with federation.process_node(flower.fleet, federation.silos[0], "--foreign-runs") as node:
            flower.flwr("run", str(app), "here")
            until(lambda: out.exists() and out.read_text(), 120)
            assert json.loads(out.read_text()) == [2.0, 2.0], node.text()

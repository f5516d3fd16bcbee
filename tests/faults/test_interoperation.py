"""It is still Flower: its node joins our orchestrator, our node joins its server, and its server runs our app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.run.history import read_history
from server.run.result import RunResult
from tests.faults.federation import ROOT, Federation, until
from tests.faults.stock import (
    app_folder,
    node_config,
    nodes_speak_grpc,
    stock,
    two_rounds_of_the_toy,
)

pytestmark = pytest.mark.slow

SERVER = """
import json
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1)
    result = strategy.start(grid, ArrayRecord([np.zeros(1000, np.float32)]), num_rounds=2)
    weights = result.arrays.to_numpy_ndarrays()[0]
    Path(str(context.run_config["out"])).write_text(json.dumps([float(weights[0]), float(weights[-1])]))
"""


@pytest.mark.skipif(
    not nodes_speak_grpc(), reason="Flower's own nodes speak HTTP only from 1.40 on"
)
def test_a_stock_supernode_joins_our_orchestrator_beside_our_own_node(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator(stock_grpc="127.0.0.1:0") as orchestrator,
        stock(federation) as flower,
        federation.thread_node(orchestrator.address, federation.silos[1]),
    ):
        assert orchestrator.stock_grpc_address is not None
        flower.supernode(
            "silo-1", orchestrator.stock_grpc_address, node_config(federation.silos[0])
        )
        orchestrator.wait_for(["silo-1", "silo-2"], 2, 90)
        two_rounds_of_the_toy(orchestrator, flower)


def test_our_node_joins_a_stock_superlink(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    out = tmp_path / "out.json"
    app = app_folder(tmp_path, SERVER, {"out": str(out)})
    with stock(federation) as flower:
        flower.superlink()
        with federation.process_node(flower.fleet, federation.silos[0], "--foreign-runs") as node:
            flower.flwr("run", str(app), "here")
            until(lambda: out.exists() and out.read_text(), 120)
            assert json.loads(out.read_text()) == [2.0, 2.0], node.text()


@pytest.mark.timeout(900)
def test_flwr_run_trains_meadows_app_on_a_stock_deployment(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    overrides = f"task=digits run.rounds=2 run.output={tmp_path / 'outputs'}"
    with stock(federation) as flower:
        flower.superlink()
        for silo in federation.silos:
            flower.supernode(silo.name, flower.nodes_server, node_config(silo))
        flower.flwr(
            "run", str(ROOT), "here", "--run-config", f'overrides="{overrides}"', "--stream"
        )
        (folder,) = (tmp_path / "outputs").iterdir()
        until(lambda: RunResult.read(folder).status != "running", 120)
        result = RunResult.read(folder)
        assert (result.status, result.mode) == ("finished", "flower"), flower.logs()
        assert list(read_history(folder))[-1].replied == ["silo-1", "silo-2"]
        assert (folder / "model" / "model.safetensors").is_file()

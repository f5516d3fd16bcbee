"""Flower's own nodes of 1.40 and later join our orchestrator over HTTPS."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.storage.folder_store import FolderStore
from conf.compose import compose
from conf.federation_folder import FederationFolder
from conf.silos import silo_to_json
from server.orchestrator.packed_grid import PackedGrid
from server.run.history import read_history
from server.run.result import RunResult
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue
from tests.faults.federation import ROOT, Federation, ask, free_port, model, total
from tests.faults.stock import app_folder, bundle, nodes_speak_grpc, stock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nodes_speak_grpc(), reason="Flower's own nodes of 1.39 have no HTTPS"),
]

CLIENT = """
from flwr.serverapp import ServerApp
from tests.faults.toy import app as client

server = ServerApp()
"""


def node_config(silo: object) -> str:
    return f"silo='{silo_to_json(silo)}'"


def test_a_stock_supernode_joins_over_https_beside_our_own_node(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    app = app_folder(tmp_path, CLIENT)
    with (
        federation.orchestrator(stock="127.0.0.1:0") as orchestrator,
        stock(federation) as flower,
        federation.thread_node(orchestrator.address, federation.silos[1]),
    ):
        assert orchestrator.stock_address is not None
        flower.supernode("silo-1", orchestrator.stock_address, node_config(federation.silos[0]))
        orchestrator.wait_for(["silo-1", "silo-2"], 2, 90)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1", "silo-2"], bundle=bundle(app)))
        packs = {name: grid._grid.packs(node) for node, name in grid.names().items()}
        assert packs == {"silo-1": False, "silo-2": True}
        for round in (1, 2):
            replies = grid.send_and_receive(ask(grid, round, model()), timeout=90)
            assert [m.error.reason for m in replies if m.has_error()] == [], flower.logs()
            assert total(replies) == 3 * 1000 * (1 + 2) + 3


def test_serve_hands_meadows_app_to_a_stock_supernode(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    folder = FederationFolder(tmp_path)
    port = free_port()
    overrides = [
        *("task=digits", "data.examples=60", "federation.size=1", "run.rounds=2", "tracking=off"),
        f"federation.folder={folder.path}",
        f"run.output={tmp_path / 'outputs'}",
        "federation.orchestrator.idle_timeout=0",
        f"federation.orchestrator.stock_listen=127.0.0.1:{port}",
    ]
    secrets = type(federation.secrets)(folder.keys)
    if folder.keys != tmp_path / "secrets":
        for name in federation.secrets.list():
            secrets.set(name, federation.secrets.get(name))
    store = FolderStore(folder.store)
    keys = AdmittedKeys(store, time.time, AdmissionAuthority(secrets, "test"))
    keys.admit("silo-1", federation.public["silo-1"].decode())
    RunQueue(store).submit("a", compose(overrides))
    command = [sys.executable, "-m", "azureml_jobs.cli.main", "serve", *overrides]
    with stock(federation) as flower:
        flower.supernode("silo-1", f"127.0.0.1:{port}", node_config(federation.silos[0]))
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + flower.logs()
    (run,) = (tmp_path / "outputs").iterdir()
    assert RunResult.read(run).status == "finished"
    assert list(read_history(run))[-1].replied == ["silo-1"]

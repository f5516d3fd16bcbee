"""Flower's own nodes of 1.40 and later join our orchestrator over HTTPS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from azureml_jobs.identity.signed_admission import AdmissionAuthority
from conf.compose import compose
from conf.federation_folder import FederationFolder
from conf.targets import known
from server.orchestrator.backends import store_in
from server.run.audit import Outside, audit
from server.run.history import read_history
from server.run.result import RunResult
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue
from tests.faults.federation import ROOT, Federation, free_port
from tests.faults.stock import node_config, nodes_speak_grpc, stock, two_rounds_of_the_toy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nodes_speak_grpc(), reason="Flower's own nodes of 1.39 have no HTTPS"),
]


def test_a_stock_supernode_joins_over_https_beside_our_own_node(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator(stock="127.0.0.1:0") as orchestrator,
        stock(federation) as flower,
        federation.thread_node(orchestrator.address, federation.silos[1]),
    ):
        assert orchestrator.stock_address is not None
        flower.supernode("silo-1", orchestrator.stock_address, node_config(federation.silos[0]))
        orchestrator.wait_for(["silo-1", "silo-2"], 2, 90)
        two_rounds_of_the_toy(orchestrator, flower)


def served(tmp_path: Path, *asked: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Do one run with one silo whose node is Flower's own; return what `serve` and Flower said."""
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
    store = store_in(folder)
    keys = AdmittedKeys(store, time.time, AdmissionAuthority(secrets, "federation"))
    keys.admit("silo-1", federation.public["silo-1"].decode())
    RunQueue(store).submit("a", compose([*overrides, *asked]))
    command = [sys.executable, "-m", "azureml_jobs.cli.main", "serve", *overrides]
    with stock(federation) as flower:
        flower.supernode("silo-1", f"127.0.0.1:{port}", node_config(federation.silos[0]))
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {known.VARIABLE: known.exported()},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return done, flower.logs()


def test_serve_hands_meadows_app_to_a_stock_supernode(tmp_path: Path) -> None:
    done, logs = served(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr + logs
    (run,) = (tmp_path / "outputs").iterdir()
    assert RunResult.read(run).status == "finished"
    assert list(read_history(run))[-1].replied == ["silo-1"]


def test_a_stock_node_gives_no_receipt_and_the_ledger_and_verify_say_so(tmp_path: Path) -> None:
    done, logs = served(tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    run = tmp_path / "outputs" / "a"
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    missing = [line for line in lines if line["event"] == "receipt missing"]
    assert {line["silo"] for line in missing} == {"silo-1"}
    # One for each round, and one for the end: it is not told of that.
    assert [line["round"] for line in missing if not line["closing"]] == [1, 2]
    assert [line["round"] for line in missing if line["closing"]] == [2]
    assert not any(line["event"] == "receipt" for line in lines)
    closed = next(line for line in lines if line["event"] == "run closed")
    assert closed["held"] == {"silo-1": None}
    verdict = audit(run, Outside(Federation(tmp_path, silos=1).authority))
    assert verdict.faults == [] and verdict.confirmed == ["the orchestrator's key"]


def test_code_from_outside_is_refused_at_a_stock_node_by_name_before_the_first_round(
    tmp_path: Path,
) -> None:
    """The orchestrator has the file; Flower's own node gets the bundle of this tree and no more."""
    mine = tmp_path / "mine.py"
    mine.write_text((ROOT / "client" / "tasks" / "digits.py").read_text())
    done, logs = served(tmp_path, f"task.target={mine}:Digits", "model=mlp")
    said = " ".join((done.stdout + done.stderr).split())
    assert "MDW-406: Before round 1, 0 of 1 silos are ready" in said, said + logs
    assert "silo-1: the silo says MDW-346" in said
    (run,) = (tmp_path / "outputs").iterdir()
    assert RunResult.read(run).rounds == 0

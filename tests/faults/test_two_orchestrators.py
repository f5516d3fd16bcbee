"""An orchestrator that was frozen, and comes back when another has taken over, ends itself and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from azureml_jobs.backends.local_jobs import LocalJobs
from conf.errors import CheckpointError
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
from server.run.audit import audit
from server.scoring.evaluation import load_model
from server.simulation import simulate
from server.store.run_queue import RunQueue
from tests.faults.federation import ROOT, until

pytestmark = pytest.mark.slow

SMALL = ["task=digits", "data.examples=200", "federation.size=2", "run.rounds=40"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose jobs are ended with the test."""
    with tempfile.TemporaryDirectory(prefix="meadow-two-") as made:
        jobs = LocalJobs(Path(made) / ".meadow/federation/jobs")
        yield Path(made)
        for name in jobs.names():
            jobs.signal(name, signal.SIGCONT)
            jobs.stop([name], seconds=0)
            jobs.wait(name, 20)


def meadow(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "azureml_jobs.cli.main", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=subprocess.STDOUT
    )


def test_the_one_that_lost_its_lease_writes_nothing_more(folder: Path) -> None:
    with meadow(
        folder, "launch", "all", "backend=local", "--detach", *SMALL, "run.name=a"
    ) as launching:
        assert launching.wait(120) == 0
    federation = folder / ".meadow/federation"
    jobs, store = LocalJobs(federation / "jobs"), store_in(FederationFolder(federation))
    until(
        lambda: store.list("runs/a/checkpoints/round-")[-1:] > ["runs/a/checkpoints/round-000003"],
        120,
    )
    jobs.signal("server", signal.SIGSTOP)
    assert RunQueue(store).outcome("a") is None

    own = [
        f"federation.folder={federation}",
        "federation.orchestrator.idle_timeout=0",
        f"run.output={folder}/second",
    ]
    with meadow(folder, "serve", *own) as second:
        said = second.communicate(timeout=200)[0]
    outcome = RunQueue(store).outcome("a")
    assert second.returncode == 0 and outcome is not None and outcome.status == "finished", said
    left = {name: store.read(name) for name in store.list()}

    jobs.signal("server", signal.SIGCONT)
    assert jobs.wait("server", 60).status == CheckpointError.exit_status
    log = jobs.log("server").read_text()
    assert "error MDW-516" in log and "Traceback" not in log
    assert {name: store.read(name) for name in store.list()} == left
    assert audit(folder / "second/a").status == "unconfirmed"
    assert json.loads((folder / "outputs/a/result.json").read_text())["status"] != "finished"

    simulate(
        [
            *SMALL,
            "simulation=pool",
            "simulation.workers=0",
            f"run.output={folder}/plain",
            "run.name=a",
        ]
    )
    ours, theirs = (load_model(folder / place / "a").state_dict() for place in ("second", "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

"""A silo refuses a run by its owner's policy, by name and with the reason; the run goes on with the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from azureml_jobs.backends.local_jobs import LocalJobs
from server.run.history import read_history
from server.simulation import simulate

ROOT = Path(__file__).parents[2]
FEDERATION = """
name: hospitals
silos:
  north: {}
  south: {policy: {models: [mlp], rounds_at_most: 10}}
  west: {batch_size_at_most: 32}
"""
RUN = ["task=digits", "data.examples=300", "run.rounds=2", "run.name=a"]
REASON = "MDW-341: The owner of south does not allow model=cnn. Allowed: mlp."
TOLD = "the silo says MDW-341 (refused model=cnn (allowed: mlp))"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the federation's file, whose jobs are ended with the test."""
    with tempfile.TemporaryDirectory(prefix="meadow-policy-") as made:
        (Path(made) / "hospitals.yaml").write_text(FEDERATION)
        yield Path(made)
        jobs = LocalJobs(Path(made) / ".meadow/hospitals/jobs")
        for name in jobs.names():
            jobs.stop([name], seconds=0)
            jobs.wait(name, 20)


def test_processes_of_a_federation_go_on_without_the_silo_that_refuses(folder: Path) -> None:
    command = [sys.executable, "-m", "azureml_jobs.cli.main", "launch", "all", "backend=local"]
    where = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    asked = [*command, "federation.file=hospitals.yaml", *RUN, "model=cnn"]
    done = subprocess.run(asked, text=True, capture_output=True, timeout=200, **where)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "outputs/a/result.json").read_text())
    assert result["status"] == "finished" and result["rounds"] == 2
    for record in read_history(folder / "outputs/a"):
        assert record.replied == ["north", "west"] and record.failed == {"south": TOLD}
        assert set(record.metrics) == {"north", "west"}
    logs = folder / ".meadow/hospitals/jobs"
    assert REASON in (logs / "silo-south/log.txt").read_text()
    assert f"south: MDW-304 {TOLD}" in (logs / "server/log.txt").read_text()
    assert "MDW-341" not in (logs / "silo-north/log.txt").read_text()


def test_a_simulation_holds_to_the_same_policy(folder: Path) -> None:
    pool = ["simulation=pool", "simulation.workers=0", f"run.output={folder / 'outputs'}"]
    asked = [
        f"federation.file={folder / 'hospitals.yaml'}",
        *RUN,
        "model=mlp",
        "trainer.batch_size=64",
    ]
    run = simulate([*asked, *pool])
    for record in run.rounds:
        assert record.replied == ["north", "south"] and list(record.failed) == ["west"]
        assert "MDW-340: west takes at most 32 examples a batch, not 64." in record.failed["west"]

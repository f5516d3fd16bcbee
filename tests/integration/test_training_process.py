"""Silos that train in processes of their own give the same model to the bit, states of their algorithm included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from azureml_jobs.backends.local_jobs import LocalJobs
from server.simulation import simulate

ROOT = Path(__file__).parents[2]
FEDERATION = """
name: hospitals
silos:
  north: {training: {separate: true, memory: 4g, seconds: 200}}
  south: {training: {separate: true}}
"""
RUN = ["task=digits", "data.examples=300", "run.rounds=3", "run.name=a"]
FORMS = ["strategy=scaffold", "compression=topk compression.down=int8", "compression=lowrank"]
"""What a silo remembers between rounds is in its process, in its node's state, and on its disk."""
pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the federation's file, whose jobs are ended with the test."""
    with tempfile.TemporaryDirectory(prefix="meadow-apart-") as made:
        (Path(made) / "hospitals.yaml").write_text(FEDERATION)
        yield Path(made)
        jobs = LocalJobs(Path(made) / ".meadow/hospitals/jobs")
        for name in jobs.names():
            jobs.signal(name, signal.SIGKILL)
            jobs.wait(name, 20)


@pytest.mark.parametrize("form", FORMS)
def test_a_federation_whose_silos_train_apart_gives_the_simulation_s_bits(
    folder: Path, form: str
) -> None:
    run = [*RUN, *form.split()]
    command = [sys.executable, "-m", "azureml_jobs.cli.main", "launch", "all", "backend=local"]
    asked = [*command, "federation.file=hospitals.yaml", *run]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        asked, cwd=folder, env=environment, text=True, capture_output=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = (folder / ".meadow/hospitals/jobs/silo-north/log.txt").read_text()
    assert "training process" in log and "is ready, its memory held by" in log
    file = f"federation.file={folder / 'hospitals.yaml'}"
    here = ["simulation=pool", "simulation.workers=0", f"run.output={folder / 'simulated'}"]
    simulate([file, *run, *here])
    models = [folder / place / "a/model/model.safetensors" for place in ("outputs", "simulated")]
    assert models[0].read_bytes() == models[1].read_bytes()

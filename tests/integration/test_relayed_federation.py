"""`meadow relay` and `meadow launch all backend=local` by it: processes, and the model of the direct way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from azureml_jobs.backends.local_jobs import LocalJobs
from server.simulation import simulate
from tests.azureml_jobs.relay.process import RelayProcess
from tests.faults.federation import lines, until

ROOT = Path(__file__).parents[2]
SMALL = ["task=digits", "data.examples=300", "federation.size=2", "run.rounds=2"]


def overrides(relay: RelayProcess) -> list[str]:
    """What `meadow launch` is told of a relay."""
    return [
        f"federation.relay.url={relay.url}",
        f"federation.orchestrator.outbound.ca={relay.ca.file}",
        *(f"+federation.silos.silo-{i}.outbound.ca={relay.ca.file}" for i in (1, 2)),
    ]


@contextmanager
def relay_process() -> Iterator[RelayProcess]:
    with tempfile.TemporaryDirectory(prefix="meadow-relayed-") as name:
        # The CA is made by the launch that follows: the relay reads the file when somebody comes.
        authority = Path(name) / ".meadow/federation/keys/ca-certificate"
        relay = RelayProcess(Path(name), {"federation": authority})
        relay.start()
        try:
            yield relay
        finally:
            relay.kill()
            jobs = LocalJobs(relay.folder / ".meadow/federation/jobs")
            jobs.stop(jobs.names())


def meadow(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "azureml_jobs.cli.main", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )


@pytest.fixture
def relay() -> Iterator[RelayProcess]:
    with relay_process() as made:
        yield made


def test_two_silos_by_a_relay_give_the_model_of_the_simulation(
    relay: RelayProcess, tmp_path: Path
) -> None:
    launched = meadow(
        relay.folder, "launch", "all", "backend=local", *SMALL, "run.name=a", *overrides(relay)
    )
    assert launched.returncode == 0, launched.stdout
    assert "silos can come by the relay" in launched.stdout
    log = relay.said()
    assert log.count("is connected") >= 2
    direct = simulate([*SMALL, f"run.output={tmp_path}", "run.name=direct"])
    there = json.loads((relay.folder / "outputs/a/result.json").read_text())
    assert there["model"]["digest"] == direct.result.model["digest"]
    # Nothing of what was carried is in the relay's words.
    assert "digits" not in log


@pytest.mark.slow
def test_a_relay_that_is_killed_twice_in_mid_run_leaves_the_bits_of_the_simulation(
    relay: RelayProcess, tmp_path: Path
) -> None:
    rounds = relay.folder / "outputs/a/history.jsonl"

    def disturb() -> None:
        until(lambda: len(lines(rounds)) >= 1, 100)
        relay.kill()
        relay.start()
        until(lambda: len(lines(rounds)) >= 4, 100)
        relay.kill()
        relay.start()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    small = [*SMALL[:-1], "run.rounds=8"]
    launched = meadow(
        relay.folder, "launch", "all", "backend=local", *small, "run.name=a", *overrides(relay)
    )
    disturbing.join()
    assert launched.returncode == 0, launched.stdout
    log = relay.said()
    assert log.count("listens at") == 3
    # All of them dialled again after each start.
    assert log.count("an orchestrator listens") == 3, log
    assert log.count("is connected") >= 6, log
    direct = simulate([*small, f"run.output={tmp_path}", "run.name=direct"])
    there = json.loads((relay.folder / "outputs/a/result.json").read_text())
    assert there["model"]["digest"] == direct.result.model["digest"]


def test_a_relay_ends_well_when_it_is_told_to() -> None:
    with relay_process() as relay:
        assert relay.kill(signal.SIGTERM) == 0
        assert "the relay ends" in relay.said()

"""`meadow relay` and `meadow launch all backend=local` by it: processes, and the model of the direct way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from azureml_jobs.backends.local_jobs import LocalJobs
from server.simulation import simulate
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.faults.federation import until

ROOT = Path(__file__).parents[2]
SMALL = ["task=digits", "data.examples=300", "federation.size=2", "run.rounds=2"]


class RelayProcess:
    """`meadow relay` as a process, at one port for all its starts."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.ca = PublicCa.made(folder / "public")
        self.log = folder / "relay.log"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        pem, key = self.ca.certify("relay", ["127.0.0.1"])
        # The CA is made by the launch that follows: the relay reads the file when somebody comes.
        authority = self.folder / ".meadow/federation/keys/ca-certificate"
        file = self.folder / "relay.yaml"
        told = {
            "name": "127.0.0.1",
            "listen": f"127.0.0.1:{self._port}",
            "certificate": str(pem),
            "key": str(key),
            "federations": {"federation": {"ca": [str(authority)]}},
        }
        file.write_text(yaml.safe_dump(told))
        before = self.log.read_text() if self.log.exists() else ""
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "azureml_jobs.cli.main", "relay", f"file={file}"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(lambda: "listens at" in self.log.read_text()[len(before) :], 30)
        found = re.findall(r"listens at 127\.0\.0\.1:(\d+)", self.log.read_text())
        self._port = int(found[-1])

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(10)

    @property
    def overrides(self) -> list[str]:
        ca = self.ca.file
        return [
            f"federation.relay.url=https://127.0.0.1:{self._port}",
            f"federation.orchestrator.outbound.ca={ca}",
            *(f"+federation.silos.silo-{i}.outbound.ca={ca}" for i in (1, 2)),
        ]


@contextmanager
def relay_process() -> Iterator[RelayProcess]:
    with tempfile.TemporaryDirectory(prefix="meadow-relayed-") as name:
        relay = RelayProcess(Path(name))
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
        relay.folder, "launch", "all", "backend=local", *SMALL, "run.name=a", *relay.overrides
    )
    assert launched.returncode == 0, launched.stdout
    assert "silos can come by the relay" in launched.stdout
    log = relay.log.read_text()
    assert log.count("is connected") >= 2
    direct = simulate([*SMALL, f"run.output={tmp_path}", "run.name=direct"])
    there = json.loads((relay.folder / "outputs/a/result.json").read_text())
    assert there["model"]["digest"] == direct.result.model["digest"]
    # Nothing of what was carried is in the relay's words.
    assert "digits" not in log


def test_a_relay_ends_well_when_it_is_told_to() -> None:
    with relay_process() as relay:
        assert relay.kill(signal.SIGTERM) == 0
        assert "the relay ends" in relay.log.read_text()

"""The orchestrator or silos stand still (SIGSTOP: a paused or moved machine, a laptop's lid): the run is delayed, and
no round of it is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import patient
from tests.faults.federation import ROOT, Federation, free_port, lines, until

# At most: 120 s to the phase, 120 s still, 200 s to the end.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APP = "tests.faults.patient:app"
SECONDS = {"train": 3.0, "evaluate": 3.0}
"""That a silo takes: long enough to be met in the middle."""


class Run:
    """Three rounds of two silos, each part a process."""

    def __init__(self, folder: Path, stack: ExitStack, *overrides: str, silos: int = 2) -> None:
        self.folder = folder
        self.begun = folder / "begun.jsonl"
        federation = Federation(folder, silos)
        port = free_port()
        environment = {
            **os.environ,
            patient.BEGUN: str(self.begun),
            patient.SECONDS: json.dumps(SECONDS),
        }
        with (folder / "server.log").open("w") as log:
            self.server = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.faults.rounds_server"),
                    *(str(folder), str(port), str(silos), "run.rounds=3", *overrides),
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        stack.callback(self._end)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(patient.BEGUN, str(self.begun))
            patched.setenv(patient.SECONDS, json.dumps(SECONDS))
            self.silos = [
                stack.enter_context(federation.process_node(f"127.0.0.1:{port}", silo, app=APP))
                for silo in federation.silos
            ]

    def in_phase(self, phase: str, round: int) -> None:
        """Wait until every silo is in a phase of a round."""
        wanted = len(self.silos)
        until(
            lambda: (
                sum(one["phase"] == phase and one["round"] == round for one in lines(self.begun))
                >= wanted
            ),
            120,
        )

    def outcome(self) -> dict[str, Any]:
        """Wait for the end, and return what the run has become."""
        assert self.server.wait(200) == 0, (self.folder / "server.log").read_text()
        found: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        return found

    def _end(self) -> None:
        self.server.send_signal(signal.SIGCONT)
        self.server.kill()
        self.server.wait(10)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as stack:
        yield Run(tmp_path, stack, "run.early_stop.patience=50", "run.reconnect_patience=200")


@contextmanager
def still(processes: list[subprocess.Popen[Any]], seconds: float) -> Iterator[None]:
    """Let processes stand still for some seconds."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        threading.Event().wait(seconds)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def is_whole(outcome: dict[str, Any]) -> bool:
    """Return whether each round has both silos' updates and metrics, and the model is what they make."""
    return (
        outcome["error"] == ""
        and [record["replied"] for record in outcome["rounds"]] == [["silo-1", "silo-2"]] * 3
        and all(len(record["metrics"]) == 2 for record in outcome["rounds"])
        and all(record["failed"] == {} for record in outcome["rounds"])
        and outcome["weight"] == pytest.approx(3 * 1.5)
    )


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize("seconds", [20.0, 62.0, 120.0])
def test_an_orchestrator_that_stood_still_loses_no_round_and_no_metric(
    run: Run, phase: str, seconds: float
) -> None:
    run.in_phase(phase, 2)
    with still([run.server], seconds):
        pass
    assert is_whole(run.outcome()), (run.folder / "server.log").read_text()
    begun = [(one["phase"], one["silo"], one["round"]) for one in lines(run.begun)]
    assert len(begun) == len(set(begun)) == 12, "nothing was done twice"
    log = (run.folder / "server.log").read_text()
    assert "stood still for" in log and "has gone" not in log


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize("seconds", [20.0, 62.0, 120.0])
def test_silos_that_all_stood_still_are_asked_again_and_lose_no_round_and_no_metric(
    run: Run, phase: str, seconds: float
) -> None:
    run.in_phase(phase, 2)
    with still([silo.process for silo in run.silos], seconds):
        pass
    assert is_whole(run.outcome()), (run.folder / "server.log").read_text()


def test_a_silo_that_stood_still_was_not_idle_meanwhile(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(
            orchestrator.address, federation.silos[0], "--idle-timeout", "20", app=APP
        ) as node,
    ):
        orchestrator.wait_for(["silo-1"], 1, 60)
        with still([node.process], 25.0):
            pass
        until(lambda: "stood still for" in node.text())
        orchestrator.wait_for(["silo-1"], 1, 20)
        assert node.process.poll() is None

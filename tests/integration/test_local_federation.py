"""`meadow launch all backend=local`: real processes, keys and TLS, and the model that the simulation gives."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch

from azureml_jobs.backends.local_jobs import ENDED, RUNNING, LocalJobs
from azureml_jobs.identity.node_key import node_secret
from azureml_jobs.storage.base import Store
from conf.errors import RoundError
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
from server.run.finished import FinishedRun
from server.run.history import read_history
from server.scoring.evaluation import load_model
from server.simulation import simulate
from server.store.run_queue import RunQueue

ROOT = Path(__file__).parents[2]
SMALL = ["task=digits", "data.examples=300", "federation.size=3"]
ALONE = "run.baseline=silos"
JOBS = {"server", "silo-silo-1", "silo-silo-2", "silo-silo-3"}
TOKEN = "not-to-be-seen-by-any-job"


@dataclass
class Launched:
    """What one whole run left, and what was seen of its processes while it ran."""

    folder: Path
    status: int = -1
    said: str = ""
    processes: dict[str, str] = field(
        default_factory=dict
    )  # command line and environment, by job and pid

    @property
    def federation(self) -> Path:
        return self.folder / ".meadow/federation"

    @property
    def jobs(self) -> LocalJobs:
        return LocalJobs(self.federation / "jobs")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose jobs are ended with the test."""
    made = Path(tempfile.mkdtemp(prefix="meadow-federation-"))
    yield made
    end(LocalJobs(made / ".meadow/federation/jobs"))
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def launched() -> Iterator[Launched]:
    """A whole run, followed to its end."""
    run = Launched(Path(tempfile.mkdtemp(prefix="meadow-launched-")))
    said = [*SMALL, "run.rounds=3", ALONE, "run.name=a"]
    process = meadow(run.folder, "launch", "all", "backend=local", *said)
    try:
        until(lambda: watched(run) or process.poll() is not None)
        run.said = process.communicate(timeout=120)[0]
        run.status = process.returncode
        yield run
    finally:
        process.kill()
        process.communicate()
        end(run.jobs)
        shutil.rmtree(run.folder)


def meadow(folder: Path, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AZURE_CLIENT_SECRET": TOKEN}
    command = [sys.executable, "-m", "azureml_jobs.cli.main", *args]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def done(folder: Path, *args: str) -> tuple[int, str]:
    process = meadow(folder, *args)
    try:
        text = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    return process.returncode, text


def watched(run: Launched) -> bool:
    """Note what the processes of all jobs, their supervisors included, show to others; True once all were seen."""
    for name in run.jobs.names():
        what = json.loads((run.jobs.folder(name) / "job.json").read_text())
        for pid, _ in (what[one] for one in ("process", "supervisor") if one in what):
            try:
                process = psutil.Process(int(pid))
                seen = "\n".join([*process.cmdline(), *map("=".join, process.environ().items())])
            except psutil.Error:
                continue
            run.processes[f"{name} {pid}"] = seen
    return {seen.split()[0] for seen in run.processes} == JOBS and len(run.processes) >= 2 * len(
        JOBS
    )


def end(jobs: LocalJobs) -> None:
    for name in jobs.names():
        jobs.stop([name], seconds=0)
        jobs.wait(name, 20)


def until(what: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def same_bits(folder: Path, simulated: FinishedRun) -> bool:
    ours = load_model(folder).state_dict()
    theirs = simulated.model().state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in theirs
    )


def simulated(folder: Path, *overrides: str) -> FinishedRun:
    pool = ["simulation=pool", "simulation.workers=0", f"run.output={folder}"]
    return simulate([*SMALL, *overrides, *pool])


def test_three_processes_give_the_model_that_the_simulation_gives(
    launched: Launched, tmp_path: Path
) -> None:
    assert launched.status == 0, launched.said
    result = json.loads((launched.folder / "outputs/a/result.json").read_text())
    assert (result["status"], result["mode"]) == ("finished", "local")
    history = list(read_history(launched.folder / "outputs/a"))
    assert [record.replied for record in history] == [["silo-1", "silo-2", "silo-3"]] * 3
    here = simulated(tmp_path, "run.rounds=3", ALONE)
    assert same_bits(launched.folder / "outputs/a", here)

    # What each silo would have had alone: trained where its data is, to the same figures.
    assert here.result.baseline is not None
    alone = result["baseline"]["silo_alone"]
    for silo, scores in here.result.baseline.silo_alone.items():
        assert alone[silo] == {"union": {}, "by_silo": {silo: scores.by_silo[silo]}}
    report = (launched.folder / "outputs/a/report.html").read_text()
    assert "Who gained" in report


def test_it_shows_the_rounds_and_where_the_result_is(launched: Launched) -> None:
    for round in (1, 2, 3):
        assert f"round {round}/3" in launched.said
    assert f"result: {launched.folder}/outputs/a" in launched.said


def test_nothing_that_it_started_is_left_running(launched: Launched) -> None:
    states = {name: launched.jobs.status(name) for name in launched.jobs.names()}
    assert states.keys() == JOBS
    assert {name: job.state for name, job in states.items()} == dict.fromkeys(JOBS, ENDED)
    assert {job.status for job in states.values()} == {128 + signal.SIGTERM}


def test_no_private_key_and_no_token_is_seen_anywhere(launched: Launched) -> None:
    private = [
        launched.federation / "keys/ca-key",
        *launched.federation.glob("jobs/silo-*/keys/node2-*"),
    ]
    assert len(private) == 4
    needles = [TOKEN, "PRIVATE KEY", *(needle for file in private for needle in pieces(file))]
    seen = dict(launched.processes)
    assert {name.split()[0] for name in seen} == JOBS
    for file in launched.folder.rglob("*"):
        if file.is_file() and file not in private:
            seen[str(file.relative_to(launched.folder))] = file.read_bytes().decode("latin-1")
    assert {"outputs/a/result.json", "outputs/a/report.html"} <= seen.keys()
    found = [
        f"{needle[:12]}... in {where}"
        for where, text in seen.items()
        for needle in needles
        if needle in text
    ]
    assert found == []
    assert TOKEN not in launched.said and "PRIVATE KEY" not in launched.said


def pieces(file: Path) -> list[str]:
    """Return what gives a key away: its base64 lines that no public part holds, and their bytes."""
    text = file.read_text()
    body = [line for line in text.splitlines() if re.fullmatch(r"[A-Za-z0-9+/=]{20,}", line)]
    whole = base64.b64decode("".join(body))
    secret = whole[-64:].decode("latin-1") if "OPENSSH" in text else whole[30:70].decode("latin-1")
    return [body[-1], secret]


def test_its_silos_confirm_the_run_and_say_what_they_hold(launched: Launched) -> None:
    status, text = done(launched.folder, "verify", "a")
    assert status == 0, text
    assert "with the model, configuration, history and metrics" in text
    assert "confirmed by silo-1, silo-2, silo-3, the orchestrator's key" in text
    lines = (launched.folder / "outputs/a/ledger.jsonl").read_text().splitlines()
    (closed,) = [json.loads(line) for line in lines if '"event":"run closed"' in line]
    assert [held["closing"] for held in closed["held"].values()] == [True] * 3


def test_each_silo_holds_its_own_key_and_no_other(launched: Launched) -> None:
    for name in JOBS - {"server"}:
        keys = launched.jobs.folder(name) / "keys"
        silo = name.removeprefix("silo-")
        assert [file.name for file in keys.iterdir()] == [node_secret("federation", silo)]
        assert (
            keys.stat().st_mode & 0o777 == 0o700
            and next(keys.iterdir()).stat().st_mode & 0o777 == 0o600
        )
        assert "PRIVATE" not in (launched.jobs.folder(name) / "ca.pem").read_text()
        command = "\n".join(
            text for seen, text in launched.processes.items() if seen.startswith(name)
        )
        others = JOBS - {name, "server"}
        assert node_secret("federation", name.removeprefix("silo-")) in command and not any(
            other in command for other in others
        )
    assert list(launched.jobs.folder("server").glob("keys/*")) == []


@pytest.mark.slow
def test_a_killed_orchestrator_of_a_detached_run_is_started_again_with_the_same_bits(
    folder: Path, tmp_path: Path
) -> None:
    rounds = "run.rounds=12"
    status, text = done(
        folder, "launch", "all", "backend=local", "--detach", *SMALL, rounds, "run.name=a"
    )
    assert status == 0, text
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(
        lambda: (
            len(checkpoints(store)) == 2
            and checkpoints(store)[-1] > "runs/a/checkpoints/round-000003"
        )
    )
    jobs.signal("server", signal.SIGKILL)
    until(lambda: jobs.status("server").restarts == 1)
    closed = checkpoints(store)[-1]
    assert RunQueue(store).outcome("a") is None and closed < "runs/a/checkpoints/round-000012"

    status, text = done(folder, "wait", "run=a", "timeout=90")
    assert status == 0, text + jobs.log("server").read_text()
    assert "It was killed (SIGKILL). It is started again" in jobs.log("server").read_text()
    assert "resumed after round" in jobs.log("server").read_text()
    assert {jobs.status(name).state for name in jobs.names()} == {RUNNING}, (
        "the silos stayed and came back"
    )
    history = list(read_history(folder / "outputs/a"))
    assert [record.round for record in history] == list(range(1, 13))
    assert same_bits(folder / "outputs/a", simulated(tmp_path, rounds))


@pytest.mark.slow
def test_an_orchestrator_killed_while_its_run_is_followed_is_started_again(
    folder: Path, tmp_path: Path
) -> None:
    rounds = "run.rounds=30"
    process = meadow(folder, "launch", "all", "backend=local", *SMALL, rounds, "run.name=a")
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(
        lambda: (
            checkpoints(store)[-1:] > ["runs/a/checkpoints/round-000003"]
            or process.poll() is not None
        )
    )
    jobs.signal("server", signal.SIGKILL)
    text = process.communicate(timeout=150)[0]
    assert (
        process.returncode == 0
        and "orchestrator  It was killed (SIGKILL). It is started again" in text
    ), text
    assert "resumed after round" in text and "round 30/30" in text
    assert {jobs.status(name).state for name in JOBS} == {ENDED}
    assert same_bits(folder / "outputs/a", simulated(tmp_path, rounds))


def checkpoints(store: Store) -> list[str]:
    return store.list("runs/a/checkpoints/round-")


@pytest.mark.slow
def test_a_federation_at_work_takes_another_run_and_is_not_started_twice(folder: Path) -> None:
    assert done(folder, "launch", "server", "backend=local")[0] == 0
    for silo in ("silo-1", "silo-2", "silo-3"):
        assert done(folder, "launch", "client", "backend=local", f"silo={silo}", *SMALL)[0] == 0
    pids = {name: LocalJobs(folder / ".meadow/federation/jobs").status(name).pid for name in JOBS}
    status, text = done(
        folder, "launch", "all", "backend=local", *SMALL, "run.rounds=1", "run.name=a"
    )
    assert status == 0, text
    assert done(folder, "submit", *SMALL, "run.rounds=1", "run.name=b")[0] == 0
    assert done(folder, "wait", "run=b", "timeout=60")[0] == 0
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    assert {name: jobs.status(name).pid for name in JOBS} == pids, (
        "those that were there are used and stay"
    )
    status, text = done(folder, "status")
    assert status == 0 and text.count("yes") == 3 and text.count("finished") == 2
    status, text = done(
        folder, "launch", "all", "backend=local", *SMALL, "data.alpha=9", "run.name=c"
    )
    assert status == 2 and "MDW-194" in text
    assert done(folder, "stop")[0] == 0
    assert {jobs.status(name).state for name in JOBS} == {ENDED}


@pytest.mark.slow
def test_ctrl_c_ends_every_job_and_the_run_can_be_gone_on_with(
    folder: Path, tmp_path: Path
) -> None:
    process = meadow(
        folder, "launch", "all", "backend=local", *SMALL, "run.rounds=12", "run.name=a"
    )
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(lambda: store.list("runs/a/checkpoints/round-000002") or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "run.resume=a" in text, text
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    assert {jobs.status(name).state for name in JOBS} == {ENDED}
    assert done(folder, "wait", "run=a")[0] == 130
    status, text = done(folder, "launch", "all", "backend=local", "run.resume=a")
    assert status == 0 and "resumed after round" in text, text
    assert same_bits(folder / "outputs/a", simulated(tmp_path, "run.rounds=12"))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_a_round_is_said_and_changes_no_bit(
    folder: Path, tmp_path: Path
) -> None:
    rounds = "run.rounds=8"
    assert (
        done(folder, "launch", "all", "backend=local", "--detach", *SMALL, rounds, "run.name=a")[0]
        == 0
    )
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(
        lambda: (
            len(checkpoints(store)) == 2
            and checkpoints(store)[-1] > "runs/a/checkpoints/round-000003"
        )
    )
    jobs.stop(["server"], seconds=0)
    jobs.wait("server", 20)
    last = folder / ".meadow/federation/store" / checkpoints(store)[-1]
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)

    assert done(folder, "launch", "server", "backend=local")[0] == 0
    status, text = done(folder, "wait", "run=a", "timeout=90")
    assert status == 0, text + jobs.log("server").read_text()
    assert "the latest checkpoint is damaged" in jobs.log("server").read_text()
    assert same_bits(folder / "outputs/a", simulated(tmp_path, rounds))


@pytest.mark.slow
def test_with_every_silo_gone_the_run_waits_its_patience_and_ends_with_its_own_status(
    folder: Path, tmp_path: Path
) -> None:
    asked = ["run.rounds=40", "run.reconnect_patience=2", "run.name=a"]
    assert done(folder, "launch", "all", "backend=local", "--detach", *SMALL, *asked)[0] == 0
    jobs = LocalJobs(folder / ".meadow/federation/jobs")
    store = store_in(FederationFolder(folder / ".meadow/federation"))
    until(
        lambda: (
            len(checkpoints(store)) == 2
            and checkpoints(store)[-1] > "runs/a/checkpoints/round-000003"
        )
    )
    for silo in JOBS - {"server"}:
        jobs.stop([silo], seconds=0)
    status, text = done(folder, "wait", "run=a", "timeout=110")
    assert status == RoundError.exit_status, text
    record = json.loads((folder / "outputs/a/result.json").read_text())
    assert (record["status"], record["error"]["code"]) == ("failed", "MDW-401")
    assert 3 <= record["rounds"] < 40

    status, text = done(folder, "launch", "all", "backend=local", "run.resume=a")
    assert status == 0, text
    assert same_bits(folder / "outputs/a", simulated(tmp_path, *asked[:1]))

"""MLflow is written to by a process of its own; nothing that happens to it or to MLflow costs a run."""

from __future__ import annotations

import http.server
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conf.schema import TrackingConf
from server.observers import mlflow_process
from server.observers import tracking as module
from server.observers.mlflow_process import MlflowProcess
from server.observers.tracking import MlflowTracker, Place, tracking
from server.run.result import RoundRecord, RunResult
from tests.server.sample_results import sample

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to start a process."""
    monkeypatch.setattr(module, "START_SECONDS", 60.0)


def run_of(name: str = "run-1") -> RunResult:
    return RunResult(name, "simulate", "digits", "fedavg", ["a"], config_digest="d1")


def round_closed(tracker: MlflowTracker, number: int) -> None:
    tracker.reply(number, "train", "a", {"loss": 1.0 / number})
    tracker.round_closed(RoundRecord(number, ["a"], ["a"], aggregate={"loss": 0.25}))


def local(folder: Path, model: str | None = None) -> MlflowTracker:
    folder.mkdir(parents=True, exist_ok=True)
    tracker = tracking(TrackingConf(mlflow="local"), folder, model)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def writer() -> psutil.Process:
    """Return the process that writes to MLflow, the only one of ours."""
    (found,) = [child for child in psutil.Process().children() if is_writer(child)]
    return found


def is_writer(process: psutil.Process) -> bool:
    """Whether a process writes to MLflow; one that has ended, of whatever test, does not."""
    try:
        return any("mlflow_writer" in part for part in process.cmdline())
    except psutil.Error:
        return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(process: psutil.Process) -> bool:
    """Whether a process no longer runs."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def steps(folder: Path, run: RunResult, name: str = "federated/loss") -> list[int]:
    from mlflow import MlflowClient

    there = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    return [metric.step for metric in there.get_metric_history(run.mlflow_run_id, name)]


def test_a_run_is_written_by_a_process_that_gets_no_secret_as_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "runs" / "one"
    (folder / "model").mkdir(parents=True)
    (folder / "model/model.safetensors").write_bytes(b"weights")
    (folder / "model/card.md").write_text("# The card\n")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "very-secret")
    made = sample(1, 2)
    tracker = local(folder, "a-name")
    tracker.run_started(made, 2)
    assert made.mlflow_run_id is not None, "the first checkpoint keeps it"
    child = writer()
    assert child.cmdline()[1:] == ["-m", "server.observers.mlflow_writer"]
    assert child.environ()["MLFLOW_TRACKING_TOKEN"] == "very-secret"
    assert not child.net_connections()
    for record in made.records:
        tracker.round_closed(record)
    tracker.run_finished(made)
    assert not child.is_running()
    assert made.registered_model == "a-name:1"
    stored = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(made.mlflow_run_id)
    assert stored.info.status == "FINISHED"
    assert steps(folder, made, "federated/accuracy") == [1, 2]


def test_the_run_s_own_process_loads_nothing_of_mlflow(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from conf.schema import TrackingConf\n"
        "from server.observers.tracking import tracking\n"
        "from server.run.result import RunResult\n"
        "run = RunResult('run-1', 'simulate', 'digits', 'fedavg', ['a'], status='finished')\n"
        "tracker = tracking(TrackingConf(mlflow='local'), Path(sys.argv[1]))\n"
        "tracker.run_started(run, 1)\n"
        "tracker.run_finished(run)\n"
        "tracker.close()\n"
        "assert run.mlflow_run_id\n"
        "print(sorted({'mlflow', 'sqlalchemy', 'fastapi', 'alembic'} & set(sys.modules)))\n"
    )
    # A stray folder that is called as our own package is not taken for it.
    stray = tmp_path / "somewhere"
    (stray / "server").mkdir(parents=True)
    (stray / "server/__init__.py").write_text("raise RuntimeError('stray')")
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path / "runs/one")],
        cwd=stray,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_killed_process_is_said_once_and_another_one_finishes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runs" / "one"
    run = run_of()
    tracker = local(folder)
    with caplog.at_level(logging.WARNING):
        tracker.run_started(run, 3)
        round_closed(tracker, 1)
        until(lambda: steps(folder, run) == [1])
        child = writer()
        child.kill()
        until(lambda: "MDW-316" in caplog.text)
        for number in (2, 3):
            round_closed(tracker, number)
        run.rounds = 3
        run.status = "finished"
        tracker.run_finished(run)
    assert caplog.text.count("MLflow") == 1
    assert steps(folder, run) == [1, 2, 3]


def test_a_stopped_process_is_ended_at_the_end_and_its_queue_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(mlflow_process, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(mlflow_process, "MOST_BYTES", 100_000)
    run = run_of()
    tracker = local(tmp_path / "runs" / "one")
    with caplog.at_level(logging.WARNING):
        tracker.run_started(run, 2000)
        child = writer()
        child.suspend()
        started = time.monotonic()
        for number in range(1, 2001):
            round_closed(tracker, number)
        assert time.monotonic() - started < 10
        tracker.run_finished(run)
    assert not child.is_running()
    assert "MDW-316" in caplog.text and "were not logged" in caplog.text


class Silent:
    """A server that takes connections and never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:secret@127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def test_a_server_that_hangs_holds_up_no_round_and_the_end_only_so_long(
    silent: Silent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(mlflow_process, "CLOSE_SECONDS", 0.2)
    run = run_of()
    tracker = MlflowTracker(Place(silent.url, "meadow"), tmp_path)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracker.run_started(run, 1)
        round_closed(tracker, 1)
        tracker.run_finished(run)
    assert time.monotonic() - started < 10
    assert run.mlflow_run_id is None
    assert caplog.text.count("MDW-316") == 1 and "secret" not in caplog.text


class Broken(http.server.BaseHTTPRequestHandler):
    """A server of which everything fails."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_server_that_answers_500_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        run = run_of()
        tracker = MlflowTracker(Place(address, "meadow"), tmp_path, "a-name")
        with caplog.at_level(logging.WARNING):
            tracker.run_started(run, 2)
            for number in (1, 2):
                round_closed(tracker, number)
            run.status = "finished"
            tracker.run_finished(run)
        server.shutdown()
    assert run.mlflow_run_id is None
    assert caplog.text.count("MDW-315") == 1
    assert "metrics were not logged" in caplog.text and "not registered as a-name" in caplog.text


@pytest.mark.slow
def test_a_locked_store_is_written_when_it_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    run = run_of()
    tracker = local(folder)
    tracker.run_started(run, 1)
    with sqlite3.connect(tmp_path / "runs/mlflow.db", isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        round_closed(tracker, 1)
        # SQLAlchemy waits for five seconds, and MLflow tries again; the lock outlasts one wait.
        threading.Event().wait(6)
        lock.execute("ROLLBACK")
    lock.close()
    tracker.run_finished(run)
    assert steps(folder, run) == [1]


PARENT = """
import sys, time
from pathlib import Path
from conf.schema import TrackingConf
from server.observers.tracking import tracking
from server.run.result import RunResult
run = RunResult("run-1", "simulate", "digits", "fedavg", ["a"])
tracker = tracking(TrackingConf(mlflow="local"), Path(sys.argv[1]))
tracker.run_started(run, 1)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "runs").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "runs/one")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    os.killpg(process.pid, how)
    process.communicate(timeout=10)
    # In a container nobody may collect what an orphan leaves: a zombie has ended, too.
    until(lambda: all(ended(child) for child in children))


def test_ctrl_c_at_the_end_no_longer_waits_and_the_run_is_whole(
    silent: Silent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.1)
    monkeypatch.setattr(mlflow_process, "CLOSE_SECONDS", 0.2)
    run = run_of()
    tracker = MlflowTracker(Place(silent.url, "meadow"), tmp_path)
    tracker.run_started(run, 1)
    child = writer()

    def interrupted(self: MlflowTracker) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowTracker, "_wait_for_the_end", interrupted)
    tracker.run_finished(run)
    assert not child.is_running()


def test_what_it_says_in_the_middle_of_its_death_is_no_answer() -> None:
    heard: list[dict[str, Any]] = []
    process = MlflowProcess(heard.append)
    process.send({"do": "nothing"})
    process._process.kill()
    process.close()
    assert [set(answer) for answer in heard] == [{"gone"}]
    assert json.dumps(heard)

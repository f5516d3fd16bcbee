"""Metrics reach MLflow by name and step; a resumed run continues; MLflow being away costs nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.observers.mlflow_writer import MlflowWriter
from server.observers.tracking import LONGEST, MlflowTracker, Place, tracking
from server.run.result import RoundRecord, RunResult
from tests.server.sample_results import Made, sample, with_failures

pytestmark = pytest.mark.usefixtures("undrawn")


class Inside:
    """Writes to MLflow in this process, where a test can put itself in MLflow's place."""

    alive = True

    def __init__(
        self, heard: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = MlflowWriter(heard, clock)

    def send(self, line: dict[str, Any]) -> bool:
        self._writer.take(json.loads(json.dumps(line, allow_nan=False)))
        return True

    def resend(self, lines: list[bytes]) -> None:
        assert not lines

    def close(self) -> list[bytes]:
        return []


@pytest.fixture(autouse=True)
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare each test the start of a process; tests/server/observers/test_mlflow_process.py has those."""
    monkeypatch.setattr("server.observers.tracking.MlflowProcess", Inside)


def result(mlflow_run_id: str | None = None) -> RunResult:
    return RunResult(
        "run-1",
        "simulate",
        "digits",
        "fedavg",
        ["a b"],
        config_digest="d1",
        mlflow_run_id=mlflow_run_id,
    )


def log_round(folder: Path, number: int, run: RunResult) -> None:
    tracker = tracking(TrackingConf(mlflow="local"), folder)
    tracker.run_started(run, 2)
    tracker.reply(number, "train", "a b", {"loss": 1.0 / number})
    tracker.reply(number, "evaluate", "a b", {"loss": 0.5 / number, "accuracy": float("nan")})
    tracker.round_closed(RoundRecord(number, ["a b"], ["a b"], aggregate={"loss": 0.25}))
    run.status = "finished"
    tracker.run_finished(run)


def test_a_run_and_its_resumption_are_one_mlflow_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "outputs" / "run-1"
    (folder / "model").mkdir(parents=True)
    (folder / "model/card.md").write_text("card")
    first = result()
    log_round(folder, 1, first)
    log_round(folder, 2, result(first.mlflow_run_id))
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    assert first.mlflow_run_id is not None
    stored = client.get_run(first.mlflow_run_id)
    assert stored.data.params["config_digest"] == "d1"
    assert stored.data.params["shown"] == "loss min"
    assert stored.data.tags["meadow.run_id"] == "run-1"
    assert stored.info.status == "FINISHED"
    history = client.get_metric_history(first.mlflow_run_id, "silo/a b/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25)]
    assert "silo/a b/train_loss" in stored.data.metrics
    assert "silo/a b/accuracy" not in stored.data.metrics
    assert stored.data.metrics["federated/loss"] == 0.25
    assert [file.path for file in client.list_artifacts(first.mlflow_run_id)] == ["model"]


def test_mlflow_being_away_costs_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = tracking(TrackingConf(mlflow="environment"), tmp_path)
    run = result()
    with caplog.at_level(logging.WARNING):
        tracker.run_started(run, 1)
        tracker.round_closed(RoundRecord(1, ["a b"], aggregate={"loss": 1.0}))
        tracker.run_finished(run)
    assert run.mlflow_run_id is None
    assert "could not start" in caplog.text
    assert "secret" not in caplog.text


def test_the_environments_store_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MDW-159"):
        tracking(TrackingConf(mlflow="environment"), tmp_path)


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_could_not_be_logged_is_logged_when_mlflow_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri, clock = f"sqlite:///{tmp_path}/mlflow.db", Clock()
    away, asked = True, 0

    def client(asked_for: str) -> MlflowClient:
        nonlocal asked
        asked += 1
        if away:
            raise ConnectionError("https://user:secret@there is away")
        return MlflowClient(asked_for)

    monkeypatch.setattr("server.observers.mlflow_writer.connect", client)
    tracker, made = (
        MlflowTracker(Place(uri, "meadow"), tmp_path, channel=lambda heard: Inside(heard, clock)),
        with_failures(sample(3, 4)),
    )
    made.rounds = 0
    with caplog.at_level(logging.WARNING):
        tracker.run_started(made, 4)
        for record in made.records:
            away = record.round < 3
            clock.now += 70 if record.round == 3 else 20
            for silo in record.replied:
                tracker.reply(record.round, "evaluate", silo, record.metrics[silo])
            made.rounds = record.round
            tracker.round_closed(record)
        tracker.run_finished(made)
    assert asked == 2, "once at the start, and not again until a minute was over"
    assert caplog.text.count("MLflow: could not") == 1
    assert "secret" not in caplog.text
    there = MlflowClient(uri)
    assert made.mlflow_run_id is not None
    for name in ("silo/silo-1/accuracy", "federated/accuracy"):
        steps = [metric.step for metric in there.get_metric_history(made.mlflow_run_id, name)]
        assert steps == [1, 2, 3, 4], name
    stored = there.get_run(made.mlflow_run_id)
    assert made.baseline is not None
    assert made.baseline.centralised is not None
    assert (
        stored.data.metrics["baseline/pooled/accuracy"]
        == made.baseline.centralised.union["accuracy"]
    )
    assert (
        stored.data.metrics["baseline/silo/silo-2/accuracy"]
        < stored.data.metrics["baseline/federated/accuracy"]
    )
    assert stored.data.metrics["federated/failed"] == 0
    assert stored.data.tags["meadow.ledger"] == made.ledger


def test_a_resumed_run_finds_its_mlflow_run_by_name_and_says_how_it_ended(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    conf, first = TrackingConf(mlflow="local", experiment="of my own"), sample(2, 1)
    first.status = "interrupted"
    tracker = tracking(conf, folder)
    tracker.run_started(first, 2)
    tracker.run_finished(first)
    there = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert there.get_run(first.mlflow_run_id).info.status == "KILLED"

    again = sample(2, 1)
    again.status = "failed"
    tracker = tracking(conf, folder)
    tracker.run_started(again, 2)
    assert again.mlflow_run_id == first.mlflow_run_id
    assert there.get_run(first.mlflow_run_id).info.status == "RUNNING"
    tracker.run_finished(again)
    stored = there.get_run(first.mlflow_run_id)
    assert stored.info.status == "FAILED"
    assert there.get_experiment(stored.info.experiment_id).name == "of my own"
    assert stored.info.artifact_uri.startswith((tmp_path / "runs").as_uri())


def test_the_model_goes_as_safetensors_with_its_card_and_no_pickle(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "runs" / "one"
    (folder / "model").mkdir(parents=True)
    for name in (
        "model/model.safetensors",
        "model/card.md",
        "result.json",
        "report.html",
        "metrics.jsonl",
    ):
        (folder / name).write_text(name)
    (folder / "checkpoints").mkdir()
    made = sample(1, 1)
    tracker = tracking(TrackingConf(mlflow="local"), folder)
    tracker.run_started(made, 1)
    tracker.run_finished(made)
    there = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    top = sorted(file.path for file in there.list_artifacts(made.mlflow_run_id))
    assert top == ["metrics.jsonl", "model", "report.html", "result.json"]
    model = sorted(file.path for file in there.list_artifacts(made.mlflow_run_id, "model"))
    assert model == ["model/MLmodel", "model/card.md", "model/model.safetensors"]


def ran(folder: Path, made: Made, model: str | None = None, mlflow: str = "local") -> RunResult:
    """Track a run that has a model and a card from its start to its end."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model/model.safetensors").write_bytes(b"weights")
    (folder / "model/card.md").write_text(f"# The card of {made.run_id}\n")
    tracker = tracking(TrackingConf(mlflow=mlflow), folder, model)
    tracker.run_started(made, 1)
    for record in made.records:
        tracker.round_closed(record)
    tracker.run_finished(made)
    return made


def test_in_a_job_a_run_is_a_child_of_the_job_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/there.db"
    there = MlflowClient(uri)
    job = there.create_run(there.create_experiment("the job's"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", job.info.run_id)
    one, two = sample(2, 1), sample(2, 2)
    two.run_id = "another"
    for made in (one, two):
        ran(tmp_path / made.run_id, made, mlflow="environment")
    below = there.search_runs(
        [job.info.experiment_id], f"tags.`mlflow.parentRunId` = '{job.info.run_id}'"
    )
    assert {run.info.run_id for run in below} == {one.mlflow_run_id, two.mlflow_run_id}
    assert [
        metric.step for metric in there.get_metric_history(two.mlflow_run_id, "federated/accuracy")
    ] == [1, 2]
    above = there.get_run(job.info.run_id)
    assert above.info.status == "RUNNING" and not above.data.metrics and not above.data.params


def test_parameters_name_the_silos_as_far_as_one_holds(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    there = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    few = ran(tmp_path / "few", sample(1, 1, names=["north", "south"]))
    params = there.get_run(few.mlflow_run_id).data.params
    assert (params["silo_names"], params["silos"], params["code"]) == (
        "north, south",
        "2",
        few.environment["code"],
    )
    names = [f"hospital-{number}" for number in range(100)]
    many = sample(1, 1, names=names)
    many.run_id = "many"
    ran(tmp_path / "many", many)
    shown = there.get_run(many.mlflow_run_id).data.params["silo_names"]
    assert len(shown) <= LONGEST and shown.endswith(" and more, 100 in all")
    assert set(shown.partition(" and more")[0].split(", ")) < set(names)


def test_parameters_that_were_not_taken_at_first_come_with_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def away(*args: object, **more: object) -> None:
        raise ConnectionError("away")

    clock, made = Clock(), sample(1, 1)
    made.rounds = 0
    (record,) = made.records
    tracker = MlflowTracker(
        Place(f"sqlite:///{tmp_path}/mlflow.db", "meadow"),
        tmp_path,
        channel=lambda heard: Inside(heard, clock),
    )
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", away)
        tracker.run_started(made, 1)
    clock.now = 100
    tracker.round_closed(record)
    params = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(made.mlflow_run_id).data.params
    assert params["silo_names"] == "silo-1"


def test_a_finished_run_s_model_is_registered_with_its_card(tmp_path: Path) -> None:
    from mlflow import MlflowClient, models

    one, two = sample(1, 1), sample(1, 1)
    two.run_id = "another"
    assert ran(tmp_path / "one", one, "hospitals-digits").registered_model == "hospitals-digits:1"
    assert ran(tmp_path / "two", two, "hospitals-digits").registered_model == "hospitals-digits:2"
    there = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    version = there.get_model_version("hospitals-digits", "2")
    assert version.description == "# The card of another\n" and version.run_id == two.mlflow_run_id
    assert (
        version.tags["meadow.sha256"] == two.model["sha256"]
        and version.tags["meadow.config"] == two.config_digest
    )
    folder = there.download_artifacts(two.mlflow_run_id, "model", str(tmp_path))
    assert list(models.Model.load(folder).flavors) == ["safetensors"]
    assert (Path(folder) / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_broke_off_registers_nothing(tmp_path: Path, status: str) -> None:
    from mlflow import MlflowClient

    made = sample(1, 1)
    made.status = status
    assert ran(tmp_path / "one", made, "a-name").registered_model is None
    assert not MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_registered_models()


def test_a_registration_that_is_refused_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    def refuse(*args: object, **more: object) -> None:
        raise PermissionError("no role for https://me:secret@models")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    with caplog.at_level(logging.WARNING):
        made = ran(tmp_path / "one", sample(1, 1), "a-name")
    assert made.registered_model is None
    assert (
        "could not register the model as a-name: no role" in caplog.text
        and "secret" not in caplog.text
    )
    assert f"not registered as a-name; it lies in {tmp_path / 'one' / 'model'}" in caplog.text
    assert (
        MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(made.mlflow_run_id).info.status
        == "FINISHED"
    )


def test_off_is_off(tmp_path: Path) -> None:
    made = sample()
    tracker = tracking(TrackingConf(mlflow="off"), tmp_path / "runs" / "one")
    tracker.run_started(made, 1)
    tracker.run_finished(made)
    assert made.mlflow_run_id is None
    assert list(tmp_path.iterdir()) == []

"""Metrics reach MLflow by name and step; a resumed run continues; MLflow being away costs nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.result import RoundRecord, RunResult
from server.tracking import tracking


def result(mlflow_run_id: str | None = None) -> RunResult:
    return RunResult("run-1", "simulate", "digits", "fedavg", ["a b"], config_digest="d1", mlflow_run_id=mlflow_run_id)


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


def test_the_environments_store_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MDW-159"):
        tracking(TrackingConf(mlflow="environment"), tmp_path)

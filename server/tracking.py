"""A run's metrics in MLflow: `silo/<name>/<metric>` and `federated/<metric>`, step = round.

MLflow being away never costs a round: what could not be logged is kept and sent with the next, or at the end.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.observers import Observer, Observers
from server.result import Metrics, RoundRecord, RunResult

log = logging.getLogger(__name__)

BATCH = 1000
"""Metrics that MLflow takes in one call."""
ARTIFACTS = ("model/model.safetensors", "model/card.md", "result.json", "report.html", "config.yaml", "ledger.jsonl")


def tracking(conf: TrackingConf, folder: Path) -> Observer:
    """Return the tracker that a configuration asks for: none, a sqlite store beside the runs, or the environment's.

    Raises ConfigError MDW-159 where MLFLOW_TRACKING_URI is asked for and not set.
    """
    if conf.mlflow == "off":
        return Observers([])
    uri = f"sqlite:///{folder.absolute().parent / 'mlflow.db'}"
    if conf.mlflow == "environment":
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            raise ConfigError(
                "MDW-159",
                "tracking=environment: MLFLOW_TRACKING_URI is not set.",
                "Set it, or use tracking=local or tracking=off.",
            )
    return MlflowTracker(uri, conf.experiment, folder)


class MlflowTracker:
    """Logs one run to one MLflow run, which a resumed run continues."""

    def __init__(self, uri: str, experiment: str, folder: Path) -> None:
        self._uri, self._experiment, self._folder = uri, experiment, folder
        self._client: Any = None
        self._run_id: str | None = None
        self._waiting: list[Any] = []

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Create the MLflow run, or find the one that is gone on with; note its id in the result."""
        with self._forgiven("start"):
            self._client = _client(self._uri)
            self._run_id = result.mlflow_run_id or self._created(result, rounds)
            result.mlflow_run_id = self._run_id

    def round_started(self, round: int, cohort: list[str]) -> None:
        """Nothing to log."""

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """Keep a silo's metrics for the end of the round; training ones are prefixed `train_`."""
        prefix = "train_" if phase == "train" else ""
        self._keep({f"silo/{silo}/{prefix}{name}": value for name, value in metrics.items()}, round)

    def round_closed(self, record: RoundRecord) -> None:
        """Log the round."""
        self._keep({f"federated/{name}": value for name, value in record.aggregate.items()}, record.round)
        self._keep({"federated/seconds": record.seconds, "federated/replied": len(record.replied)}, record.round)
        with self._forgiven(f"log round {record.round}"):
            self._send()

    def run_finished(self, result: RunResult) -> None:
        """Log what is left, the baselines, the artefacts and how the run ended."""
        with self._forgiven("finish"):
            if result.baseline is not None:
                self._keep({f"baseline/federated/{n}": v for n, v in result.baseline.federated.union.items()}, 0)
                if result.baseline.centralised:
                    self._keep({f"baseline/pooled/{n}": v for n, v in result.baseline.centralised.union.items()}, 0)
            self._send()
            self._client.set_tag(self._run_id, "meadow.ledger", result.ledger)
            for name in ARTIFACTS:
                if (self._folder / name).is_file():
                    into = name.rpartition("/")[0] or None
                    self._client.log_artifact(self._run_id, str(self._folder / name), into)
            ok = result.status in ("finished", "stopped_early")
            self._client.set_terminated(self._run_id, "FINISHED" if ok else "FAILED")

    def _created(self, result: RunResult, rounds: int) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        run = self._client.create_run(experiment, run_name=result.run_id, tags={"meadow.run_id": result.run_id})
        facts: dict[str, object] = {
            "task": result.task,
            "strategy": result.strategy,
            "silos": len(result.silos),
            "seed": result.seed,
        }
        facts |= {"rounds": rounds, "config_digest": result.config_digest, "code": result.environment.get("code", "")}
        self._client.log_batch(run.info.run_id, params=_params(facts))
        return str(run.info.run_id)

    def _keep(self, metrics: Metrics, step: int) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {_key(name): value for name, value in metrics.items() if math.isfinite(value)}
        self._waiting += [Metric(name, value, now, step) for name, value in finite.items()]

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run_id, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]

    @contextlib.contextmanager
    def _forgiven(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever MLflow or its server does, the run goes on
            if self._client is not None or what == "start":
                log.warning("MLflow: could not %s: %s", what, _without_secrets(f"{error}"))


def _params(facts: dict[str, object]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, str(value)) for name, value in facts.items()]  # type: ignore[no-untyped-call]  # MLflow's


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with contextlib.redirect_stderr(io.StringIO()):  # the store announces each of its migrations
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def _key(name: str) -> str:
    """Return a metric's name with what MLflow does not take replaced."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _without_secrets(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)

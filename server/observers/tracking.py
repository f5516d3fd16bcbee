"""A run's metrics in MLflow: `silo/<name>/<metric>` and `federated/<metric>`, step = round; its model and card.

MLflow being away never costs a round: what could not be logged is kept and sent later, at the latest at the end.
Inside a job that has an MLflow run of its own, as every job of Azure ML has, ours is a child of it: an orchestrator's
job does many runs, and each has its own steps, parameters and model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conf.errors import ConfigError
from conf.schema import Conf, TrackingConf
from conf.telemetry import OFF
from server.observers import model_registry
from server.observers.base import Observer
from server.run.result import Metrics, RoundRecord, RunResult, Scores

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""Metrics that MLflow takes in one call."""
LONGEST: Final = 500
"""Characters of a parameter: MLflow's limit before 2.10, and all that a service behind its interface need take."""
PARENT: Final = "mlflow.parentRunId"
"""MLflow's own tag of a nested run."""
PAUSE: Final = 60.0
"""Seconds for which a store that failed is left alone: rounds must not wait for its time limits again and again."""
MODEL: Final = "model/model.safetensors"
CARD: Final = "model/card.md"
ARTIFACTS: Final = (
    MODEL,
    CARD,
    "result.json",
    "report.html",
    "config.yaml",
    "history.jsonl",
    "metrics.jsonl",
    "ledger.jsonl",
)
ENDED: Final = {"finished": "FINISHED", "stopped_early": "FINISHED", "interrupted": "KILLED"}
"""MLflow's word for a run's status; any other is FAILED."""
ENVIRONMENT: Final = {
    **OFF,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would go through the live display
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seven by default, with pauses that double: two minutes a call
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""What MLflow reads from the environment, unless the user has set it."""


@dataclass(frozen=True)
class Place:
    """Where a run is logged: the address; the experiment, and a place for a new one's files; or the run above it."""

    uri: str
    experiment: str
    artifacts: Path | None = None
    parent: str = ""


def tracking(conf: TrackingConf, folder: Path, model: str | None = None) -> Observer:
    """Return the tracker that a configuration asks for: none, a sqlite store beside the runs, or the environment's.

    `model` is the name under which the model is registered. Raises ConfigError MDW-159 where MLFLOW_TRACKING_URI is
    asked for and not set.
    """
    if conf.mlflow == "off":
        return Observer()
    if conf.mlflow == "local":
        runs = folder.absolute().parent
        place = Place(f"sqlite:///{runs / 'mlflow.db'}", conf.experiment, runs / "mlartifacts")
    else:
        above = os.environ.get("MLFLOW_RUN_ID") or os.environ.get("AZUREML_RUN_ID", "")
        place = Place(tracking_uri(conf), conf.experiment, parent=above)
    return MlflowTracker(place, folder, model)


def registered_name(conf: Conf) -> str | None:
    """Return the name under which a run's model is registered, None where it is not to be."""
    if not conf.tracking.register:
        return None
    return conf.tracking.model or f"{conf.federation.name}-{conf.task.name}"


def tracking_uri(conf: TrackingConf) -> str:
    """Return what the environment names as MLflow's address where it is asked for; raises ConfigError MDW-159."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if conf.mlflow == "environment" and not uri:
        raise ConfigError(
            "MDW-159",
            "tracking=environment: MLFLOW_TRACKING_URI is not set.",
            "Set it, or use tracking=local or tracking=off.",
        )
    return uri


class MlflowTracker(Observer):
    """Logs one run to one MLflow run, which a resumed run continues; registers its model as `model`, if named."""

    def __init__(
        self,
        place: Place,
        folder: Path,
        model: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place, self._folder, self._model = place, folder, model
        self._clock, self._left_alone_until = clock, -math.inf
        self._client: Any = None
        self._result: RunResult | None = None
        self._rounds = 0
        self._tracked = False  # this process has found or made the MLflow run
        self._waiting: list[
            tuple[str, float, int, int]
        ] = []  # name, value, milliseconds since 1970, step

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Create the MLflow run, or find the one that is gone on with; note its id in the result."""
        self._result, self._rounds = result, rounds
        self._try("start", self._send)

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """Keep a silo's metrics for the end of the round; training ones are prefixed `train_`."""
        prefix = "train_" if phase == "train" else ""
        self._keep(f"silo/{silo}/{prefix}", metrics, round)

    def round_closed(self, record: RoundRecord) -> None:
        """Log the round."""
        cost = {"seconds": record.seconds, "seconds_waiting": record.seconds_waiting}
        traffic = {
            "bytes_up": sum(record.bytes_up.values()),
            "bytes_down": sum(record.bytes_down.values()),
        }
        counts = {"replied": len(record.replied), "failed": len(record.failed)}
        self._keep("federated/", record.aggregate | cost | traffic | counts, record.round)
        self._try(f"log round {record.round}", self._send)

    def run_finished(self, result: RunResult) -> None:
        """Log what is left, the baselines, the artefacts and how the run ended."""
        last = result.rounds
        for name, scores in _baselines(result).items():
            self._keep(f"baseline/{name}/", scores.union, last)
        self._left_alone_until = -math.inf
        self._try("finish", lambda: self._finish(result))
        if self._model and result.status in model_registry.REGISTERED:
            self._register(result, self._model)
        if self._waiting:
            log.warning(
                "MLflow: %d metrics were not logged; metrics.jsonl holds them", len(self._waiting)
            )

    def _finish(self, result: RunResult) -> None:
        self._send()
        for name in ARTIFACTS:
            if (self._folder / name).is_file():
                into = name.rpartition("/")[0] or None
                self._client.log_artifact(result.mlflow_run_id, str(self._folder / name), into)
        if (self._folder / MODEL).is_file():
            self._client.log_text(
                result.mlflow_run_id, model_registry.mlmodel(result), model_registry.MLMODEL
            )
        self._client.set_terminated(result.mlflow_run_id, ENDED.get(result.status, "FAILED"))

    def _register(self, result: RunResult, name: str) -> None:
        def version() -> None:
            card = (self._folder / CARD).read_text()
            result.registered_model = model_registry.register(self._client, result, name, card)

        self._try(f"register the model as {name}", version)
        if result.registered_model is None:
            log.warning(
                "The model is not registered as %s; it lies in %s, with its card.",
                name,
                self._folder / "model",
            )

    def _open(self, result: RunResult) -> None:
        self._client = self._client or _client(self._place.uri)
        experiment = self._experiment()
        if (
            not result.mlflow_run_id and result.rounds
        ):  # MLflow was away when the run began, or for all of it
            result.mlflow_run_id = self._lost(experiment, result.run_id)
        if result.mlflow_run_id:
            self._client.update_run(result.mlflow_run_id, "RUNNING")
        else:
            tags = {"meadow.run_id": result.run_id, "meadow.mode": result.mode}
            tags |= {PARENT: self._place.parent} if self._place.parent else {}
            result.mlflow_run_id = self._client.create_run(
                experiment, run_name=result.run_id, tags=tags
            ).info.run_id
        there = self._client.get_run(
            result.mlflow_run_id
        ).data.params  # a parameter can't be changed
        missing = [param for param in _params(result, self._rounds) if param.key not in there]
        if missing:
            self._client.log_batch(result.mlflow_run_id, params=missing)
        self._tracked = True

    def _experiment(self) -> Any:
        """Return the experiment's id: a child's is its parent's."""
        place = self._place
        if place.parent:
            return self._client.get_run(place.parent).info.experiment_id
        found = self._client.get_experiment_by_name(place.experiment)
        if found:
            return found.experiment_id
        files = place.artifacts.as_uri() if place.artifacts else None
        return self._client.create_experiment(place.experiment, artifact_location=files)

    def _lost(self, experiment: str, run_id: str) -> str | None:
        if not re.fullmatch(r"[\w.-]+", run_id):  # it goes into a query
            return None
        runs = self._client.search_runs(
            [experiment], f"tags.`meadow.run_id` = '{run_id}'", max_results=1
        )
        return runs[0].info.run_id if runs else None

    def _keep(self, prefix: str, metrics: Metrics, step: int) -> None:
        now = int(time.time() * 1000)
        finite = {
            name: v
            for name, v in metrics.items()
            if isinstance(v, int | float) and math.isfinite(v)
        }
        self._waiting += [
            (_key(prefix + name), float(value), now, step) for name, value in finite.items()
        ]

    def _send(self) -> None:
        assert self._result is not None
        if not self._tracked:
            self._open(self._result)
        from mlflow.entities import Metric, RunTag

        tags = [RunTag("meadow.ledger", self._result.ledger)] if self._result.ledger else []  # type: ignore[no-untyped-call]  # MLflow's
        while self._waiting or tags:
            metrics = [Metric(*one) for one in self._waiting[:BATCH]]
            self._client.log_batch(self._result.mlflow_run_id, metrics=metrics, tags=tags)
            del self._waiting[:BATCH]
            tags = []

    def _try(self, what: str, action: Callable[[], None]) -> None:
        """Do something with MLflow; whatever it or its server does, the run goes on."""
        if self._result is None or self._clock() < self._left_alone_until:
            return
        try:
            with _quiet():
                action()
        except Exception as error:
            self._left_alone_until = self._clock() + PAUSE
            log.warning("MLflow: could not %s: %s", what, _without_secrets(f"{error}"))


def _baselines(result: RunResult) -> dict[str, Scores]:
    if result.baseline is None:
        return {}
    rows = {"federated": result.baseline.federated}
    rows |= {f"silo/{silo}": scores for silo, scores in result.baseline.silo_alone.items()}
    return rows | ({"pooled": result.baseline.centralised} if result.baseline.centralised else {})


def _params(result: RunResult, rounds: int) -> list[Any]:
    from mlflow.entities import Param

    facts: dict[str, object] = {
        "task": result.task,
        "strategy": result.strategy,
        "silos": len(result.silos),
    }
    facts |= {"silo_names": _names(result.silos)}
    facts |= {
        "seed": result.seed,
        "rounds": rounds,
        "engine": result.engine,
        "config_digest": result.config_digest,
    }
    facts |= {"code": result.environment.get("code", "")}
    return [Param(name, str(value)) for name, value in facts.items()]  # type: ignore[no-untyped-call]  # MLflow's


def _names(silos: list[str]) -> str:
    """Return as many of the silos' names as a parameter holds; result.json has all."""
    text = ", ".join(silos)
    if len(text) <= LONGEST:
        return text
    last = f" and more, {len(silos)} in all"
    return text[: LONGEST - len(last)].rpartition(",")[0] + last


def _client(uri: str) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the announcements of MLflow and of its store's migrations off the terminal; stdout is the display's."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _key(name: str) -> str:
    """Return a metric's name with what MLflow does not take replaced."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _without_secrets(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)

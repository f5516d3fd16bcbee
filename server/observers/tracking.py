"""A run's metrics in MLflow: `silo/<name>/<metric>` and `federated/<metric>`, step = round; its
model and card.

A process of its own writes them (`server.observers.mlflow_writer`), so that nothing of MLflow is
loaded where silos are listened to, and so that MLflow being away, slow or broken never costs a
round: it is said once. Inside a job that has an MLflow run of its own, as every job of Azure ML
has, ours is a child of it: an orchestrator's job does many runs, and each has its own steps,
parameters and model.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from conf.errors import ConfigError
from conf.schema import Conf, TrackingConf
from server.observers import model_registry
from server.observers.base import Observer
from server.observers.mlflow_process import MlflowProcess
from server.run.result import FinalTest, Metrics, RoundRecord, RunResult, Scores

log = logging.getLogger(__name__)

Json = dict[str, Any]

LONGEST: Final = 500
"""Characters of a parameter: MLflow's limit before 2.10, and all that a service behind its
interface need take.
"""
START_SECONDS: Final = 10.0
"""For the MLflow run's id, which the first checkpoint keeps; after that the run begins without it.
"""
SILENCE_SECONDS: Final = 60.0
"""For a sign of life from the process at the run's end, beside the time that its files may take."""
SLOWEST_BYTES: Final = 1_000_000
"""Bytes a second at which files are given time to be stored."""
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


@dataclass(frozen=True)
class Place:
    """Where a run is logged: the address; the experiment, and a place for a new one's files; or the
    run above it.
    """

    uri: str
    experiment: str
    artifacts: Path | None = None
    parent: str = ""


def tracking(conf: TrackingConf, folder: Path, model: str | None = None) -> Observer:
    """Return the tracker that a configuration asks for: none, a sqlite store beside the runs, or
    the environment's.

    `model` is the name under which the model is registered. Raises ConfigError MDW-159 where
    MLFLOW_TRACKING_URI is asked for and not set.
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
    """Return what the environment names as MLflow's address where it is asked for.

    Raises ConfigError MDW-159.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if conf.mlflow == "environment" and not uri:
        raise ConfigError(
            "MDW-159",
            "tracking=environment: MLFLOW_TRACKING_URI is not set.",
            "Set it, or use tracking=local or tracking=off.",
        )
    return uri


class Channel(Protocol):
    """What carries lines to the one that writes to MLflow; see `MlflowProcess`."""

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""

    def send(self, line: Json) -> bool:
        """Take a line; False where it is dropped."""

    def resend(self, lines: list[bytes]) -> None:
        """Take lines that another one never got."""

    def close(self) -> list[bytes]:
        """End it; return the lines that it never got."""


class MlflowTracker(Observer):
    """Has one run logged to one MLflow run, which a resumed run continues; registers its model as
    `model`, if named.

    `channel` starts what does it, by default a process of its own. Nothing that it or MLflow does
    ends the run or raises here.
    """

    def __init__(
        self,
        place: Place,
        folder: Path,
        model: str | None = None,
        *,
        channel: Callable[[Callable[[Json], None]], Channel] | None = None,
    ) -> None:
        self._place = place
        self._folder = folder
        self._model = model
        self._start_channel = channel or MlflowProcess
        self._channel: Channel | None = None
        self._result: RunResult | None = None
        self._start: Json = {}
        # Metrics of the round in progress: name, value, milliseconds since 1970, step.
        self._metrics: list[list[Any]] = []
        self._dropped = 0
        self._not_logged = 0
        self._said = False
        self._finished = False
        # What the process has answered, by the thread that listens to it.
        self._heard_of = threading.Condition()
        self._answered = False
        self._gone = False
        self._ended = False
        self._signs = 0

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Start the process, and wait some seconds for the id of the MLflow run, which goes into
        the result.
        """
        self._result = result
        place = self._place
        self._start = {
            "do": "start",
            "uri": place.uri,
            "experiment": place.experiment,
            "artifacts": place.artifacts.as_uri() if place.artifacts else None,
            "parent": place.parent,
            "run_id": result.run_id,
            "mode": result.mode,
            "params": _params(result, rounds),
        }
        self._start_process()
        with self._heard_of:
            self._heard_of.wait_for(lambda: self._answered or self._gone, START_SECONDS)

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """Keep a silo's metrics for the end of the round; those of training and of the test are
        prefixed `train_` and `test_`.
        """
        prefix = "" if phase == "evaluate" else f"{phase}_"
        self._keep(f"silo/{silo}/{prefix}", metrics, round)

    def round_closed(self, record: RoundRecord) -> None:
        """Have the round logged."""
        cost = {"seconds": record.seconds, "seconds_waiting": record.seconds_waiting}
        traffic = {
            "bytes_up": sum(record.bytes_up.values()),
            "bytes_down": sum(record.bytes_down.values()),
        }
        counts = {"replied": len(record.replied), "failed": len(record.failed)}
        self._keep("federated/", record.aggregate | cost | traffic | counts, record.round)
        self._send({"do": "round", "round": record.round} | self._taken())

    def model_tested(self, test: FinalTest) -> None:
        """Keep what the run's model is worth, for the line of its end."""
        final = {f"test_{name}": value for name, value in test.final.items()}
        self._keep("federated/", final, test.round)

    def run_finished(self, result: RunResult) -> None:
        """Have the rest logged: baselines, files, the model, how the run ended; wait for it, with a
        bound.

        Ctrl-C ends this waiting alone: the run itself is over.
        """
        if self._finished:
            return
        self._finished = True
        for name, scores in _baselines(result).items():
            self._keep(f"baseline/{name}/", scores.union, result.rounds)
        if self._channel is not None and not self._channel.alive:
            self._start_again()
        self._send(self._last_line(result))
        if self._channel is not None:
            try:
                self._wait_for_the_end()
            except KeyboardInterrupt:
                log.warning("MLflow: no longer waited for; its run may lack the last rounds")
        self.close()
        self._say_what_is_missing(result)

    def close(self) -> None:
        """End the process, whatever it does."""
        channel = self._channel
        self._channel = None
        if channel is not None:
            channel.close()

    # ---- the process ----

    def _start_process(self) -> None:
        assert self._result is not None
        self._gone = False
        # A resumed run, or a second process, finds the MLflow run that is there.
        known = {"id": self._result.mlflow_run_id, "begun": self._result.rounds > 0}
        try:
            self._channel = self._start_channel(self._heard)
        except OSError as error:
            self._say_once(f"its process could not be started: {error}", "MDW-316")
            return
        self._channel.send(self._start | known)

    def _start_again(self) -> None:
        """Give what a process that is gone never read to another one, once: the run is over, and
        this the last try.
        """
        assert self._channel is not None
        unread = self._channel.close()
        # The first of them, where nothing was read, is the line that every process gets.
        unread = [line for line in unread if not line.startswith(b'{"do": "start"')]
        self._start_process()
        if self._channel is not None:
            self._channel.resend(unread)

    def _heard(self, answer: Json) -> None:
        """Note an answer of the process; in the thread that listens to it."""
        assert self._result is not None
        with self._heard_of:
            self._signs += 1
            if "id" in answer:
                self._result.mlflow_run_id = answer["id"]
            if "registered" in answer:
                self._result.registered_model = answer["registered"]
            if "problem" in answer:
                self._problem(answer["problem"], answer["error"])
            if "gone" in answer:
                self._gone = True
                if not self._ended and self._channel is not None:
                    self._say_once(f"its process ended ({answer['gone']})", "MDW-316")
            self._ended = self._ended or "ended" in answer
            self._not_logged = answer.get("not_logged", self._not_logged)
            self._answered = self._answered or "ready" in answer or "problem" in answer
            self._heard_of.notify_all()

    def _wait_for_the_end(self) -> None:
        patience = SILENCE_SECONDS + self._bytes_of_files() / SLOWEST_BYTES
        with self._heard_of:
            while not self._ended and not self._gone:
                before = self._signs
                self._heard_of.wait(patience)
                if self._signs == before and not self._gone:
                    self._say_once(f"no sign of it for {patience:.0f} s", "MDW-316")
                    return

    def _bytes_of_files(self) -> int:
        return sum((self._folder / name).stat().st_size for name in self._files())

    def _files(self) -> list[str]:
        return [name for name in ARTIFACTS if (self._folder / name).is_file()]

    # ---- lines ----

    def _keep(self, prefix: str, metrics: Metrics, step: int) -> None:
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._metrics.append([_key(prefix + name), float(value), now, step])

    def _taken(self) -> Json:
        """Return what every line brings: the metrics since the last one, and the ledger's head."""
        assert self._result is not None
        metrics = self._metrics
        self._metrics = []
        return {"metrics": metrics, "ledger": self._result.ledger}

    def _send(self, line: Json) -> None:
        if self._channel is None or not self._channel.send(line):
            self._dropped += len(line["metrics"])

    def _last_line(self, result: RunResult) -> Json:
        files = self._files()
        register = self._model if result.status in model_registry.REGISTERED else None
        card = ""
        if register and CARD in files:
            card = (self._folder / CARD).read_text(encoding="utf-8")
        return {
            "do": "finish",
            "status": result.status,
            "folder": str(self._folder.absolute()),
            "files": files,
            "model": model_registry.facts(result) if MODEL in files else None,
            "register": register,
            "card": card,
            "tags": model_registry.tags(result),
        } | self._taken()

    # ---- what is said ----

    def _problem(self, what: str, error: str) -> None:
        if what.startswith("register"):
            log.warning("MLflow: could not %s: %s", what, error)
        else:
            self._say_once(f"could not {what}: {error}", "MDW-315")

    def _say_once(self, what: str, code: str) -> None:
        """Say what is wrong with MLflow, the first time; a store that is away all night fills no
        log.
        """
        level = logging.DEBUG if self._said else logging.WARNING
        self._said = True
        log.log(level, "MLflow: %s. The run goes on; metrics.jsonl holds all (%s)", what, code)

    def _say_what_is_missing(self, result: RunResult) -> None:
        missing = self._dropped + self._not_logged
        if missing:
            log.warning("MLflow: %d metrics were not logged; metrics.jsonl holds them", missing)
        wanted = self._model and result.status in model_registry.REGISTERED
        if wanted and result.registered_model is None:
            log.warning(
                "The model is not registered as %s; it lies in %s, with its card.",
                self._model,
                self._folder / "model",
            )


def _baselines(result: RunResult) -> dict[str, Scores]:
    if result.baseline is None:
        return {}
    rows = {"federated": result.baseline.federated}
    rows |= {f"silo/{silo}": scores for silo, scores in result.baseline.silo_alone.items()}
    return rows | ({"pooled": result.baseline.centralised} if result.baseline.centralised else {})


def _params(result: RunResult, rounds: int) -> dict[str, str]:
    facts: dict[str, object] = {
        "task": result.task,
        "strategy": result.strategy,
        "silos": len(result.silos),
        "silo_names": _names(result.silos),
        "seed": result.seed,
        "rounds": rounds,
        "engine": result.engine,
        "shown": ", ".join(f"{name} {better}" for name, better in result.shown.items()),
        "config_digest": result.config_digest,
        "code": result.environment.get("code", ""),
    }
    return {name: str(value) for name, value in facts.items()}


def _names(silos: list[str]) -> str:
    """Return as many of the silos' names as a parameter holds; result.json has all."""
    text = ", ".join(silos)
    if len(text) <= LONGEST:
        return text
    last = f" and more, {len(silos)} in all"
    return text[: LONGEST - len(last)].rpartition(",")[0] + last


def _key(name: str) -> str:
    """Return a metric's name with what MLflow does not take replaced."""
    return re.sub(r"[^\w\-./ ]", "_", name)

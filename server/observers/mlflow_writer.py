"""The process that writes one run to MLflow: it reads JSON lines from its parent, and answers with
JSON lines.

python -m server.observers.mlflow_writer

MLflow and what it stands on (SQLAlchemy, HTTP clients, Azure's plugin) are imported here and not in
the process that listens to silos. MLflow being away never costs a round: what could not be logged
is kept and sent later, at the latest at the end. It takes three kinds of lines (`do`), from
`server.observers.tracking`:

    start     where, which run, its parameters, and its MLflow run if it has one already
    round     metrics as [name, value, milliseconds since 1970, step], and the ledger's head
    finish    the run's status, what is left to log, the files, the name to register the model under

and gives these answers: the `id` of the MLflow run, `ready` once it is open, a `sign` after each
step of the end, a `problem` with its `error`, the version that was `registered` and, last, `ended`
with how many metrics are `not_logged`.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from conf.telemetry import OFF
from server.observers import model_registry

Json = dict[str, Any]

BATCH: Final = 1000
"""Metrics that MLflow takes in one call."""
PAUSE: Final = 60.0
"""Seconds for which a store that failed is left alone, instead of waiting for its time limits again
and again.
"""
MOST_WAITING: Final = 1_000_000
"""Metrics that are kept for a store that is away: about 200 MB. The oldest go first; metrics.jsonl
holds them all.
"""
PARENT: Final = "mlflow.parentRunId"
"""MLflow's own tag of a nested run."""
ENDED: Final = {"finished": "FINISHED", "stopped_early": "FINISHED", "interrupted": "KILLED"}
"""MLflow's word for a run's status; any other is FAILED."""
ENVIRONMENT: Final = {
    **OFF,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seven by default, with pauses that double: two minutes a call
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""What MLflow reads from the environment, unless the user has set it."""
ORPHAN_SECONDS: Final = 5.0
"""For what is being written when the parent ends without a word."""


class MlflowWriter:
    """Writes one run to one MLflow run, which a resumed run continues; `say` takes its answers."""

    def __init__(
        self, say: Callable[[Json], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._left_alone_until = -math.inf
        self._client: Any = None
        self._run: Json = {}
        self._id: str | None = None
        self._begun = False  # some round is closed, perhaps by a process before this one
        self._open = False  # this process has found or made the MLflow run
        self._waiting: list[list[Any]] = []
        self._dropped = 0
        self._ledger = ""

    def take(self, line: Json) -> None:
        """Do what a line of the parent asks for.

        Raises KeyError for a line that it would not write.
        """
        match line["do"]:
            case "start":
                self._run = line
                self._id = line["id"]
                self._begun = line["begun"]
                if self._try("start", self._send):
                    self._say({"ready": True})
            case "round":
                self._begun = True
                self._keep(line)
                self._try(f"log round {line['round']}", self._send)
            case "finish":
                self._keep(line)
                self._finish(line)

    def orphaned(self) -> None:
        """Log what is left of a run whose process ended without a word; it stays RUNNING, to be
        resumed.
        """
        if self._run:
            self._try("log the last rounds", self._send)

    # ---- a run's metrics ----

    def _keep(self, line: Json) -> None:
        self._ledger = line["ledger"] or self._ledger
        self._waiting += line["metrics"]
        too_many = len(self._waiting) - MOST_WAITING
        if too_many > 0:
            del self._waiting[:too_many]
            self._dropped += too_many

    def _send(self) -> None:
        if not self._open:
            self._open_run()
        from mlflow.entities import Metric, RunTag

        tags = [RunTag("meadow.ledger", self._ledger)] if self._ledger else []  # type: ignore[no-untyped-call]  # MLflow's
        while self._waiting or tags:
            metrics = [Metric(*one) for one in self._waiting[:BATCH]]
            self._client.log_batch(self._id, metrics=metrics, tags=tags)
            del self._waiting[:BATCH]
            tags = []

    def _open_run(self) -> None:
        """Find the run's MLflow run or make one, and log the parameters that it has not."""
        run = self._run
        self._client = self._client or connect(run["uri"])
        experiment = self._experiment()
        if not self._id and self._begun:
            # MLflow was away when the run began, or for all of it.
            self._id = self._lost(experiment)
        if self._id:
            self._client.update_run(self._id, "RUNNING")
        else:
            tags = {"meadow.run_id": run["run_id"], "meadow.mode": run["mode"]}
            if run["parent"]:
                tags[PARENT] = run["parent"]
            made = self._client.create_run(experiment, run_name=run["run_id"], tags=tags)
            self._id = made.info.run_id
        self._say({"id": self._id})
        self._log_parameters()
        self._open = True

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        # A parameter can't be changed, and those of a resumed run are there already.
        there = self._client.get_run(self._id).data.params
        missing = [
            Param(name, value)  # type: ignore[no-untyped-call]  # MLflow's
            for name, value in self._run["params"].items()
            if name not in there
        ]
        if missing:
            self._client.log_batch(self._id, params=missing)

    def _experiment(self) -> Any:
        """Return the experiment's id: a child's is its parent's."""
        run = self._run
        if run["parent"]:
            return self._client.get_run(run["parent"]).info.experiment_id
        found = self._client.get_experiment_by_name(run["experiment"])
        if found:
            return found.experiment_id
        return self._client.create_experiment(run["experiment"], artifact_location=run["artifacts"])

    def _lost(self, experiment: Any) -> str | None:
        run_id = self._run["run_id"]
        if not re.fullmatch(r"[\w.-]+", run_id):  # it goes into a query
            return None
        query = f"tags.`meadow.run_id` = '{run_id}'"
        runs = self._client.search_runs([experiment], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    # ---- its end ----

    def _finish(self, line: Json) -> None:
        # However long the store was away: this is the last try.
        self._left_alone_until = -math.inf
        self._try("finish", lambda: self._log_end(line))
        name = line["register"]
        if name:
            self._try(f"register the model as {name}", lambda: self._register(line, name))
        self._say({"ended": True, "not_logged": len(self._waiting) + self._dropped})

    def _log_end(self, line: Json) -> None:
        self._send()
        folder = Path(line["folder"])
        for name in line["files"]:
            into = name.rpartition("/")[0] or None
            self._client.log_artifact(self._id, str(folder / name), into)
            self._say({"sign": name})
        if line["model"]:
            text = model_registry.mlmodel(str(self._id), line["model"])
            self._client.log_text(self._id, text, model_registry.MLMODEL)
        self._client.set_terminated(self._id, ENDED.get(line["status"], "FAILED"))
        self._say({"sign": "terminated"})

    def _register(self, line: Json, name: str) -> None:
        version = model_registry.register(
            self._client, str(self._id), name, line["card"], line["tags"]
        )
        self._say({"registered": version})

    def _try(self, what: str, action: Callable[[], None]) -> bool:
        """Do something with MLflow; whatever it or its server does, the run goes on."""
        if self._clock() < self._left_alone_until:
            return False
        try:
            action()
            return True
        except Exception as error:
            self._left_alone_until = self._clock() + PAUSE
            self._say({"problem": what, "error": without_secrets(f"{error}")})
            return False


def connect(uri: str) -> Any:
    """Return MLflow's client for an address that answers."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def without_secrets(text: str) -> str:
    """Return a text without the user and password of the addresses in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def main() -> None:
    """Write what the parent says on stdin, until it says no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What MLflow and its plugins print is for nobody: stdout is the parent's.
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def say(answer: Json) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    writer = MlflowWriter(say)
    finished = False
    for text in sys.stdin:
        line = json.loads(text)
        writer.take(line)
        finished = line["do"] == "finish"
    if not finished:
        writer.orphaned()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, even while MLflow's server lets it wait."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()

"""What a run found out: the documented, versioned schema of `result.json` and of a round
(docs/results.md).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from conf.canonical import canonical
from conf.versions import Format
from server.run.shown import LOSS_ALONE

SCHEMA_VERSION = 2
FORMAT: Final = Format(
    "result.json",
    SCHEMA_VERSION,
    damaged="MDW-504",
    fix="If the rounds of its run are not done, resume it: run.resume=RUN_ID.",
    key="schema_version",
)

Metrics = dict[str, float]
NOT_IN_DIGEST: Final = (
    "folder",
    "command",
    "ledger",
    "model",
    "mlflow_run_id",
    "registered_model",
    "error",
    "schema_version",
)
"""Of a result, what `RunResult.digest` leaves out."""
TEST_PHASE: Final = "test"
"""The phase after the last round, beside `train` and `evaluate`."""


@dataclass
class RoundRecord:
    """One round: who was asked, who answered, who failed, why and by which code of docs/errors.md,
    what it cost and what it gave.

    `seconds*` in seconds, `bytes_*` in bytes of arrays; `train` and `metrics` hold a silo's
    training and evaluation metrics, `software` what a silo says that it runs, where that is new.
    `aggregate` holds the metrics of all silos' validation examples together (made of their sums, not
    means of `metrics`), weighted means of the training metrics (prefixed `train_`), and the metrics
    of the central test set (prefixed `central_`) where `run.test=rounds` asks for them. `partial`
    names the silos whose owners withheld counts: all metrics of the union but the loss lack
    these. `twins` are those whose key two processes used when the round closed.
    `evaluated` are those that answered the evaluation, with examples or without,
    `unevaluated` those that were asked and did not, for a reason in `failed`. `unscored` says why
    the central test set was not scored, where it was to be. `privacy` holds what the run has cost
    each silo, or its examples, so far: epsilon by privacy loss distributions, `epsilon_renyi` and
    the noise of the last release, in units of the clipping norm.
    """

    round: int
    cohort: list[str]
    replied: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_training: dict[str, float] = field(default_factory=dict)
    seconds_waiting: float = 0.0
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    train: dict[str, Metrics] = field(default_factory=dict)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    software: dict[str, dict[str, str]] = field(default_factory=dict)
    aggregate: Metrics = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    evaluated: list[str] = field(default_factory=list)
    unevaluated: list[str] = field(default_factory=list)
    unscored: str = ""
    privacy: dict[str, Metrics] = field(default_factory=dict)


LATER: Final = ("chosen", "details", "unscored", "privacy")
"""Fields of a test that earlier releases had not."""


@dataclass
class FinalTest:
    """The evaluation of the run's model on the silos' test splits, once, at the end of the run.

    `round` is the model's. `metrics` holds each silo's own, `aggregate` those of all their test
    examples together, made of their sums: both are empty where no silo has test examples. `central`
    holds those of the task's own test set, where it has one. A silo that was asked and is in
    neither `metrics` nor `failed` has no test examples, or fewer than its owner lets be told.
    `partial` is as in a round. Of a task that ranks classes, `chosen` holds what the validation
    examples chose (operating points, a temperature), and `details` what the test's sums tell beside
    the metrics (`server.scoring.details`). `privacy` holds what the run had cost each silo's examples
    after the test, where that was told with noise.
    """

    round: int
    asked: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    aggregate: Metrics = field(default_factory=dict)
    central: Metrics = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    seconds: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    unscored: str = ""
    privacy: dict[str, Metrics] = field(default_factory=dict)

    @property
    def final(self) -> Metrics:
        """The metrics that the run ends with; those of the central test set prefixed `central_`."""
        return self.aggregate | {f"central_{name}": v for name, v in self.central.items()}

    @property
    def is_failure(self) -> bool:
        """Whether silos were asked and every one of them failed."""
        return bool(self.asked) and set(self.failed) >= set(self.asked)

    @property
    def digest(self) -> str:
        """The SHA-256 of what was found, which the ledger holds; the same after JSON and back."""
        facts = finite(self)
        del facts["seconds"]
        # A test of a release that had no such fields has the digest that it had.
        return _digest({k: v for k, v in facts.items() if v or k not in LATER})


@dataclass
class Scores:
    """A model's metrics on the union of the silos' test splits (the headline) and on each one's
    own.
    """

    union: Metrics
    by_silo: dict[str, Metrics]


@dataclass
class Baseline:
    """The federated model beside what could be had without a federation, with the same budget of
    epochs.
    """

    federated: Scores
    silo_alone: dict[str, Scores] = field(default_factory=dict)
    centralised: Scores | None = None  # all training splits pooled
    seconds: float = 0.0


@dataclass
class RunResult:
    """The summary in `result.json`; `status` is running, finished, stopped_early, interrupted or
    failed.

    Its size does not grow with the rounds: those are in `history.jsonl`
    (`server.run.history.read_history`).
    """

    run_id: str
    mode: str  # simulate | local | azure | flower
    task: str
    strategy: str
    silos: list[str]
    folder: str = ""  # where the run was written, as it was named then
    command: str = ""
    seed: int = 0
    engine: str = ""
    status: str = "running"
    rounds: int = 0  # that closed
    history: dict[str, Any] = field(default_factory=dict)  # lines, bytes and head of history.jsonl
    failed: dict[str, int] = field(default_factory=dict)  # by silo: the rounds in which it failed
    partition: dict[str, list[int]] = field(
        default_factory=dict
    )  # examples of each class, where one machine sees all
    classes: list[str] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=lambda: dict(LOSS_ALONE))  # max or min, by metric
    baseline: Baseline | None = None
    privacy: dict[str, Any] = field(default_factory=dict)
    test: FinalTest | None = None  # of a run that went to its end
    final: Metrics = field(default_factory=dict)  # of that test
    model: dict[str, Any] = field(default_factory=dict)  # path, sha256, digest, parameters
    environment: dict[str, Any] = field(default_factory=dict)  # versions, devices
    software: dict[str, dict[str, str]] = field(default_factory=dict)  # by silo, as it said last
    config_digest: str = ""
    ledger: str = ""  # the anchor of ledger.jsonl: lines:digest
    mlflow_run_id: str | None = None
    registered_model: str | None = None  # name:version in MLflow's registry
    started: str = ""
    seconds: float = 0.0
    error: dict[str, str] | None = None  # code, message
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """The SHA-256 of what a run found out, which the ledger holds; the same after JSON and
        back.

        Without what is known only after the ledger's last line, what says where files are, and
        texts of errors, which may be forgotten.
        """
        facts = finite(self)
        for name in NOT_IN_DIGEST:
            del facts[name]
        return _digest(facts)

    def to_json(self) -> str:
        """Return the result as JSON text, a line for each of its values and of the values of its
        mappings; NaN and infinities become null.
        """
        # json's own `indent` is written in Python: ten times as long with a thousand silos.
        lines = [f" {json.dumps(key)}: {_laid_out(one)}" for key, one in finite(self).items()]
        return "{\n" + ",\n".join(lines) + "\n}"

    @staticmethod
    def from_json(text: bytes | str, where: object = "It") -> RunResult:
        """Return the result written by `to_json`; `where` names the text in errors.

        Raises CheckpointError: MDW-504 for what can't be read, MDW-505 for another version.
        """
        raw = FORMAT.loads(text, where)
        with FORMAT.reading(where):
            if raw["baseline"] is not None:
                raw["baseline"] = _baseline(raw["baseline"])
            if raw["test"] is not None:
                raw["test"] = FinalTest(**raw["test"])
            return RunResult(**raw)

    @staticmethod
    def read(folder: Path) -> RunResult:
        """Return the result stored in a run's folder.

        Raises CheckpointError: MDW-504 where none can be read, MDW-505 for one of another version.
        """
        path = folder / "result.json"
        try:
            text = path.read_bytes()
        except OSError as error:
            raise FORMAT.fault(path, error.strerror or str(error)) from error
        return RunResult.from_json(text, path)


def _laid_out(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    lines = [
        f"  {json.dumps(key)}: {json.dumps(one, allow_nan=False)}" for key, one in value.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n }"


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(facts)).hexdigest()


def _baseline(raw: dict[str, Any]) -> Baseline:
    pooled = raw["centralised"]
    return Baseline(
        federated=Scores(**raw["federated"]),
        silo_alone={silo: Scores(**scores) for silo, scores in raw["silo_alone"].items()},
        centralised=None if pooled is None else Scores(**pooled),
        seconds=raw["seconds"],
    )


def finite(value: Any) -> Any:
    """Return plain values with null in place of what JSON has no word for: NaN and infinities.

    A dataclass becomes a dict of its fields. In one pass: `dataclasses.asdict` copies each value.
    """
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: finite(getattr(value, field.name)) for field in fields(value)}
    return value

"""What a run found out: the documented, versioned schema of `result.json` (docs/results.md)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.errors import CheckpointError

SCHEMA_VERSION = 1

Metrics = dict[str, float]


@dataclass
class RoundRecord:
    """One round: who was asked, who answered, who failed and why, what it cost and what it gave.

    `seconds*` in seconds, `bytes_*` in bytes of arrays; `train` and `metrics` hold a silo's training and
    evaluation metrics; `aggregate` their weighted means (training ones prefixed `train_`) and, prefixed
    `central_`, those of the central test set.
    """

    round: int
    cohort: list[str]
    replied: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_training: dict[str, float] = field(default_factory=dict)
    seconds_waiting: float = 0.0
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    train: dict[str, Metrics] = field(default_factory=dict)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    aggregate: Metrics = field(default_factory=dict)


@dataclass
class Scores:
    """A model's metrics on the union of the silos' held-out splits (the headline) and on each one's own."""

    union: Metrics
    by_silo: dict[str, Metrics]


@dataclass
class Baseline:
    """The federated model beside what could be had without a federation, with the same budget of epochs."""

    federated: Scores
    silo_alone: dict[str, Scores] = field(default_factory=dict)
    centralised: Scores | None = None  # all training splits pooled
    seconds: float = 0.0


@dataclass
class RunResult:
    """Everything a run leaves in `result.json`; `status` is running, finished, stopped_early, interrupted or failed."""

    run_id: str
    mode: str  # simulate | local | azure
    task: str
    strategy: str
    silos: list[str]
    folder: str = ""  # where the run was written, as it was named then
    command: str = ""
    seed: int = 0
    engine: str = ""
    status: str = "running"
    rounds: list[RoundRecord] = field(default_factory=list)
    partition: dict[str, list[int]] = field(
        default_factory=dict
    )  # examples of each class, where one machine sees all
    classes: list[str] = field(default_factory=list)
    baseline: Baseline | None = None
    privacy: dict[str, Any] = field(default_factory=dict)
    final: Metrics = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)  # path, sha256, parameters
    environment: dict[str, Any] = field(default_factory=dict)  # versions, devices
    config_digest: str = ""
    ledger: str = ""  # the anchor of ledger.jsonl: lines:digest
    mlflow_run_id: str | None = None
    registered_model: str | None = None  # name:version in MLflow's registry
    started: str = ""
    seconds: float = 0.0
    error: dict[str, str] | None = None  # code, message
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the result as indented JSON text; NaN and infinities become null."""
        return json.dumps(_plain(dataclasses.asdict(self)), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> RunResult:
        """Return the result written by `to_json`; raises KeyError or TypeError for another schema."""
        raw: dict[str, Any] = json.loads(text)
        raw["rounds"] = [RoundRecord(**r) for r in raw["rounds"]]
        if raw["baseline"] is not None:
            b = raw["baseline"]
            b["federated"] = Scores(**b["federated"])
            b["silo_alone"] = {silo: Scores(**s) for silo, s in b["silo_alone"].items()}
            b["centralised"] = Scores(**b["centralised"]) if b["centralised"] else None
            raw["baseline"] = Baseline(**b)
        return RunResult(**raw)

    @staticmethod
    def read(folder: Path) -> RunResult:
        """Return the result stored in a run's folder; raises CheckpointError MDW-504 where none can be read."""
        try:
            return RunResult.from_json((folder / "result.json").read_text())
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            hint = f"If its rounds are not done, go on with run.resume={folder}."
            raise CheckpointError(
                "MDW-504", f"{folder} has no readable result.json: {error}.", hint
            ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value

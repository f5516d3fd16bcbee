"""Results of runs with their histories: realistic ones, and the odd ones that a page must survive."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path

from server.report.build import html
from server.report.overview import overview
from server.run.history import FILE, History, Mark
from server.run.result import Baseline, FinalTest, Metrics, RoundRecord, RunResult, Scores

CLASSES = [str(digit) for digit in range(10)]
BYTES = 4 * 4_810


class Made(RunResult):
    """A result, and beside it the records that its history holds."""

    records: list[RoundRecord]

    def with_records(self, records: list[RoundRecord]) -> Made:
        """Return itself with these rounds."""
        self.records = records
        self.rounds = len(records)
        return self


def page_of(made: Made) -> str:
    """Return the report's page for a result and its rounds."""
    return html(made, overview(made.records, made.silos, made.shown))


def write_history(folder: Path, records: Iterable[RoundRecord]) -> Mark:
    """Write the history of a run's folder, as the run does."""
    (folder / FILE).unlink(missing_ok=True)
    history = History(folder / FILE, Mark())
    for record in records:
        history.append(record)
    return history.mark


def sample(
    silos: int = 3, rounds: int = 10, *, baseline: bool = True, names: list[str] | None = None
) -> Made:
    """Return a finished run that learned, the same each time."""
    members = names or [f"silo-{number}" for number in range(1, silos + 1)]
    draw = random.Random(7)
    records = [_round(number, members, draw) for number in range(1, rounds + 1)]
    made = Made(
        run_id="digits-fedavg-20260102-030405",
        mode="simulate",
        task="digits",
        strategy="fedavg",
        silos=members,
        folder="outputs/digits-fedavg-20260102-030405",
        command=f"meadow simulate experiment=quickstart federation.size={len(members)}",
        engine="ray",
        status="finished",
        partition={silo: [draw.choice((0, 3, 25, 60, 140)) for _ in CLASSES] for silo in members},
        classes=CLASSES,
        shown={"accuracy": "max", "loss": "min"},
        baseline=_baseline(members, draw) if baseline else None,
        test=_tested(records[-1]) if records else None,
        final=dict(records[-1].aggregate) if records else {},
        model={"path": "model/model.safetensors", "sha256": "ab" * 32, "parameters": 4_810},
        environment={
            "versions": {
                "python": "3.11.9",
                "meadow": "0.1.0",
                "flwr": "1.39.0",
                "torch": "2.14.1",
            },
            "code": "cd" * 32,
            "platform": "Linux x86_64",
            "cores": 2,
            "devices": ["cpu"],
        },
        config_digest="ef" * 32,
        ledger="12:" + "01" * 32,
        started="2026-01-02T03:04:05+00:00",
        seconds=sum(record.seconds for record in records),
    )
    return made.with_records(records)


def regression() -> Made:
    """Return a finished run of a task whose headline is better when less, and is no share."""
    made = sample()
    made.shown = {"rmse": "min", "r2": "max"}
    made.partition = {}
    made.classes = []
    assert made.baseline is not None and made.baseline.centralised is not None
    assert made.test is not None
    alone = made.baseline.silo_alone.values()
    for metrics in [
        made.baseline.federated.union,
        made.baseline.centralised.union,
        *(scores.union for scores in alone),
        *made.baseline.federated.by_silo.values(),
        *(own for scores in alone for own in scores.by_silo.values()),
        *made.baseline.centralised.by_silo.values(),
        *(own for record in made.records for own in record.metrics.values()),
        *(record.aggregate for record in made.records),
        *made.test.metrics.values(),
        made.test.aggregate,
    ]:
        wrong = 1 - metrics.pop("accuracy")
        metrics |= {"rmse": 40 * wrong, "r2": 1 - wrong}
    made.final = dict(made.records[-1].aggregate)
    return made


def loss_alone() -> Made:
    """Return a finished run of a task that measures nothing but its loss."""
    made = regression()
    made.shown = {"loss": "min"}
    return made


def bare(status: str = "failed") -> Made:
    """Return a run that ended before anything was known of it."""
    made = Made(
        "digits-fedavg-0", "simulate", "digits", "fedavg", ["silo-1", "silo-2"], status=status
    )
    return made.with_records([])


def with_failures(result: Made) -> Made:
    """Return the run with its second silo failing in two rounds, once for a reason that is hostile."""
    for record, reason in zip(
        result.records, ("no reply before the round closed", HOSTILE), strict=False
    ):
        silo = record.cohort[1]
        record.failed[silo] = reason
        record.codes[silo] = "MDW-611" if reason == HOSTILE else "MDW-304"
        record.replied.remove(silo)
        for kept in (record.train, record.metrics, record.seconds_training, record.bytes_up):
            kept.pop(silo)
        result.failed[silo] = result.failed.get(silo, 0) + 1
    return result


HOSTILE = "<script>alert('reason')</script>"


def with_nan(result: Made) -> Made:
    """Return the run with metrics that diverged: NaN here, null once it was written and read."""
    for record in result.records:
        silo = record.cohort[0]
        record.metrics[silo]["loss"] = record.train[silo]["loss"] = math.nan
        record.aggregate["loss"] = math.nan
    result.final = dict(result.records[-1].aggregate)
    if result.baseline is not None:
        result.baseline.federated.union["loss"] = math.nan
        first = next(iter(result.baseline.silo_alone.values()))
        first.union = {"loss": math.inf, "accuracy": math.nan}
    return result


def _round(number: int, silos: list[str], draw: random.Random) -> RoundRecord:
    seconds = {silo: draw.uniform(0.2, 0.9) for silo in silos}
    train = {
        silo: {"num-examples": 400.0, "loss": 2.0 / (number + 1), "seconds": seconds[silo]}
        for silo in silos
    }
    metrics = {silo: _evaluated(number, draw) for silo in silos}
    slowest = max(seconds.values())
    return RoundRecord(
        round=number,
        cohort=list(silos),
        replied=list(silos),
        seconds=slowest + 0.3,
        seconds_training=seconds,
        seconds_waiting=0.2,
        bytes_up=dict.fromkeys(silos, BYTES),
        bytes_down=dict.fromkeys(silos, BYTES),
        train=train,
        metrics=metrics,
        aggregate={
            "loss": sum(m["loss"] for m in metrics.values()) / len(silos),
            "accuracy": sum(m["accuracy"] for m in metrics.values()) / len(silos),
            "train_loss": 2.0 / (number + 1),
        },
    )


def _tested(last: RoundRecord) -> FinalTest:
    """Return a test that found what the last round's evaluation did."""
    own = {silo: dict(metrics) for silo, metrics in last.metrics.items()}
    return FinalTest(last.round, last.cohort, metrics=own, aggregate=dict(last.aggregate))


def _evaluated(number: int, draw: random.Random) -> Metrics:
    right = 1 - 0.9 * math.exp(-number / 3) - draw.uniform(0, 0.08)
    return {
        "num-examples": 100.0,
        "loss": -math.log(max(right, 0.05)),
        "accuracy": max(right, 0.05),
        "seconds": 0.01,
    }


def _baseline(silos: list[str], draw: random.Random) -> Baseline:
    def scores(right: float) -> Scores:
        own = {silo: {"loss": 0.4, "accuracy": right - draw.uniform(0, 0.02)} for silo in silos}
        return Scores({"loss": 1 - right, "accuracy": right}, own)

    alone = {silo: scores(0.713 - 0.01 * place / len(silos)) for place, silo in enumerate(silos)}
    return Baseline(scores(0.961), alone, scores(0.969), seconds=3.2)

"""metrics.jsonl holds each closed round once, whatever stopped the run before."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from server.observers.metrics_file import SECONDS_BETWEEN, MetricsFile
from server.run.result import FinalTest, RunResult
from tests.server.sample_results import sample


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, made: RunResult, rounds: range, *, closed: bool = True) -> None:
    file = MetricsFile(folder)
    file.run_started(made, 4)
    for record in sample(2, 4).records:
        if record.round in rounds:
            file.round_started(record.round, record.cohort)
            for silo in record.cohort:
                file.reply(record.round, "train", silo, record.train[silo])
                file.reply(record.round, "evaluate", silo, record.metrics[silo])
            if closed:
                file.round_closed(record)
                made.rounds += 1
    file.run_finished(made)


def test_a_line_per_silo_round_and_phase_and_one_for_the_aggregate(tmp_path: Path) -> None:
    made = sample(2, 0)
    write(tmp_path, made, range(1, 3))
    found = [(line["round"], line["silo"], line["phase"]) for line in lines(tmp_path)]
    one_round = [(s, p) for s in ("silo-1", "silo-2") for p in ("train", "evaluate")] + [
        (None, "aggregate")
    ]
    assert found == [(number, *rest) for number in (1, 2) for rest in one_round]
    assert lines(tmp_path)[1]["accuracy"] == sample(2, 4).records[0].metrics["silo-1"]["accuracy"]
    assert lines(tmp_path)[4]["loss"] == sample(2, 4).records[0].aggregate["loss"]


def test_a_resumed_run_drops_the_round_that_never_closed_and_a_line_cut_off(tmp_path: Path) -> None:
    made = sample(2, 0)
    write(tmp_path, made, range(1, 3))
    write(tmp_path, made, range(3, 4), closed=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "si')
    before = lines_of_closed(tmp_path, 2)
    write(tmp_path, made, range(3, 5))
    assert [line for line in lines(tmp_path) if line["round"] <= 2] == before
    assert len(lines(tmp_path)) == 4 * 5


def lines_of_closed(folder: Path, last: int) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text().splitlines()[:-1]
    return [line for line in map(json.loads, text) if line["round"] <= last]


def test_the_test_of_the_end_has_its_own_lines_and_a_resumed_run_drops_them(tmp_path: Path) -> None:
    made = sample(2, 0)
    write(tmp_path, made, range(1, 3))
    rounds = lines(tmp_path)
    file = MetricsFile(tmp_path)
    file.reply(2, "test", "silo-2", {"loss": 0.5})
    assert lines(tmp_path) == rounds, "a test that is broken off leaves nothing"
    own = {"silo-1": {"loss": 0.25}, "silo-2": {"loss": 0.5}}
    file.model_tested(
        FinalTest(2, ["silo-1", "silo-2"], {}, {}, own, {"loss": 0.375}, {"loss": 0.4})
    )
    assert lines(tmp_path)[len(rounds) :] == [
        {"round": 2, "silo": "silo-1", "phase": "test", "loss": 0.25},
        {"round": 2, "silo": "silo-2", "phase": "test", "loss": 0.5},
        {"round": 2, "silo": None, "phase": "test", "loss": 0.375, "central_loss": 0.4},
    ]
    write(tmp_path, made, range(3, 4))
    assert [line["phase"] for line in lines(tmp_path)].count("test") == 0


def test_what_is_no_number_is_null_and_a_silo_cannot_pass_for_another(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.reply(
        1, "train", "silo-1", {"loss": math.nan, "norm": -math.inf, "round": 7.0, "silo": 2.0}
    )
    assert lines(tmp_path) == [
        {"round": 1, "silo": "silo-1", "phase": "train", "loss": None, "norm": None}
    ]


def test_many_quick_replies_are_few_writes_and_none_is_lost_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = MetricsFile(tmp_path)
    for silo in range(1000):
        file.reply(1, "train", f"silo-{silo}", {"loss": 0.5})
    # The first is seen at once: something goes on.
    assert len(lines(tmp_path)) == 1
    now[0] += SECONDS_BETWEEN
    file.reply(1, "train", "late", {"loss": 0.5})
    assert len(lines(tmp_path)) == 1001
    file.reply(1, "train", "later", {"loss": 0.5})
    file.close()
    assert [line["silo"] for line in lines(tmp_path)[-2:]] == ["late", "later"]


def test_before_a_round_counts_all_that_its_silos_said_is_written(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    record = sample(2, 4).records[0]
    for silo in record.cohort:
        file.reply(record.round, "train", silo, record.train[silo])
    file.round_closing(record)
    assert [line["silo"] for line in lines(tmp_path)] == record.cohort

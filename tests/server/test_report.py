"""The report says what happened, holds everything itself, and shows others' text as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.report import headline, html, write_report
from server.result import Baseline, RoundRecord, RunResult, Scores


def result(silos: int = 3, rounds: int = 4, **changes: object) -> RunResult:
    names = [f"silo-{i}" for i in range(1, silos + 1)]
    made = RunResult("run-1", "simulate", "digits", "fedavg", names, started="2026-01-01T00:00:00+00:00")
    made.status, made.command, made.classes = "finished", "meadow simulate run.rounds=4", ["zero", "one"]
    made.rounds = [record(number, names) for number in range(1, rounds + 1)]
    made.environment = {
        "versions": {"flwr": "1.39.0"},
        "platform": "Linux",
        "cores": 2,
        "devices": ["cpu"],
        "code": "c0de",
    }
    made.partition = {name: [5, i] for i, name in enumerate(names)}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def record(number: int, names: list[str]) -> RoundRecord:
    metrics = {name: {"loss": 1 / number, "accuracy": 1 - 0.5 / number} for name in names}
    return RoundRecord(
        number,
        names,
        replied=names,
        seconds=2.0,
        seconds_training=dict.fromkeys(names, 1.5),
        bytes_up=dict.fromkeys(names, 1000),
        bytes_down=dict.fromkeys(names, 1000),
        metrics=metrics,
        aggregate={"loss": 1 / number, "accuracy": 1 - 0.5 / number},
    )


def baseline(silos: list[str]) -> Baseline:
    def scores(accuracy: float) -> Scores:
        return Scores({"accuracy": accuracy, "loss": 1 - accuracy}, {s: {"accuracy": accuracy} for s in silos})

    alone = {silo: scores(0.5 + i / 100) for i, silo in enumerate(silos)}
    return Baseline(scores(0.961), alone, scores(0.969))


def test_the_headline_compares_the_federation_with_what_could_be_had_without() -> None:
    made = result()
    made.baseline = baseline(made.silos)
    assert headline(made) == (
        "The federated model is right on 96.1% of held-out examples; the best silo alone on 52.0%;"
        " a model of all data pooled on 96.9%"
    )


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    made = result()
    made.baseline = baseline(made.silos)
    (tmp_path / "result.json").write_text(made.to_json())
    page = write_report(tmp_path).read_text()
    assert not re.search(r"""(src|href|action)\s*=\s*["'](?!#|data:)""", page)
    assert "@import" not in page
    assert "url(http" not in page
    assert page.count("<svg") == 3


def test_it_shows_the_numbers_the_command_and_the_versions() -> None:
    made = result()
    made.baseline = baseline(made.silos)
    page = html(made)
    for text in ("96.1%", "51.0%", "96.9%", "meadow simulate run.rounds=4", "flwr 1.39.0", "c0de", "silo-2 alone"):
        assert text in page, text


def test_names_and_reasons_are_shown_as_text() -> None:
    evil = "<script>alert(1)</script>"
    made = result(silos=1, rounds=1)
    made.silos, made.rounds[0].cohort = [evil], [evil]
    made.rounds[0].metrics = {evil: {"accuracy": 0.5}}
    made.rounds[0].failed = {evil: f"{evil} & more"}
    made.partition = {evil: [1, 2]}
    page = html(made)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_failures_are_listed_once_with_their_rounds() -> None:
    made = result(rounds=3)
    for closed in made.rounds:
        closed.failed = {"silo-2": "out of memory"}
    assert re.search(r"silo-2</th><td>1, 2, 3</td><td class=\"reason\">out of memory", html(made))


@pytest.mark.parametrize(
    "made",
    [
        result(rounds=0),
        result(silos=1, rounds=1),
        result(silos=100, rounds=2),
        result(partition={}, classes=[]),
        result(status="failed", error={"code": "MDW-401", "message": "no quorum"}),
        result(status="interrupted", rounds=1),
    ],
    ids=["no round", "one of each", "a hundred silos", "no partition", "failed", "interrupted"],
)
def test_every_kind_of_run_has_a_page(made: RunResult) -> None:
    page = html(made)
    assert made.run_id in page
    assert (made.error or {"code": "run-1"})["code"] in page
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().replace("finance", "")

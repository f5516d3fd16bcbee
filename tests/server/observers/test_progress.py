"""What a person sees: one greppable line a round, or a live table; then what it was worth and how to go on."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from server.observers.base import Observer
from server.observers.progress import (
    LiveProgress,
    PlainProgress,
    in_few,
    progress,
    sparkline,
)
from server.observers.summary import summary
from server.run.result import Baseline, RoundRecord, RunResult, Scores
from tests.server.sample_results import bare, regression, sample, with_failures, with_nan

SILOS = ["north", "south"]


def console(terminal: bool = False, height: int = 24, width: int = 100) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height, highlight=False
    )


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run(observer: Observer, silos: list[str] = SILOS, **final: object) -> RunResult:
    result = RunResult("run-1", "simulate", "digits", "fedavg", silos, folder="outputs/run-1")
    result.shown = {"accuracy": "max", "loss": "min"}
    observer.run_started(result, 2)
    for number in (1, 2):
        observer.round_started(number, silos)
        for silo in silos[:-1]:
            observer.reply(number, "train", silo, {"loss": 0.5, "num-examples": 10, "seconds": 1.0})
            observer.reply(number, "evaluate", silo, {"accuracy": 0.75})
        record = RoundRecord(number, silos, silos[:-1], {silos[-1]: "out of memory"}, 1.5)
        record.aggregate = {"loss": 0.5 / number, "accuracy": math.nan}
        record.bytes_up = dict.fromkeys(silos, 2_000_000)
        result.rounds += 1
        observer.round_closed(record)
    result.status = "finished"
    for name, value in final.items():
        setattr(result, name, value)
    observer.run_finished(result)
    return result


def test_without_a_terminal_there_is_one_plain_line_a_round() -> None:
    out = console()
    observer = progress(live=True, console=out)
    assert isinstance(observer, PlainProgress)
    run(observer)
    lines = text_of(out).splitlines()
    assert "\x1b" not in text_of(out)
    assert [line for line in lines if line.startswith("round 2/2  loss 0.2500")] != []
    assert "round 1/2  south failed: out of memory" in lines
    assert "done: outputs/run-1" in lines


def test_no_progress_is_plain_on_a_terminal_too() -> None:
    assert isinstance(progress(live=False, console=console(terminal=True)), PlainProgress)


def test_on_a_terminal_the_table_shows_each_silo_and_the_cursor_comes_back() -> None:
    out = console(terminal=True)
    observer = progress(live=True, console=out)
    assert isinstance(observer, LiveProgress)
    run(observer)
    assert "north" in text_of(out)
    assert "failed: out of memory" in text_of(out)
    assert text_of(out).rfind("\x1b[?25h") > text_of(out).rfind("\x1b[?25l") > -1


def test_a_hundred_silos_fit_the_terminal() -> None:
    out = console(terminal=True, height=20)
    observer = LiveProgress(out)
    silos = [f"silo-{i}" for i in range(100)]
    observer.run_started(RunResult("run-1", "simulate", "digits", "fedavg", silos), 2)
    observer.round_started(1, silos)
    shown = console(height=20)
    shown.print(observer._render())
    observer.run_finished(RunResult("run-1", "simulate", "digits", "fedavg", silos))
    assert len(text_of(shown).splitlines()) <= 20
    assert "and 89 more" in text_of(shown)


def test_the_table_compares_federated_alone_and_pooled() -> None:
    scores = [
        Scores({"accuracy": a, "loss": 0.1}, {s: {"accuracy": a} for s in SILOS})
        for a in (0.9, 0.6, 0.5, 0.95)
    ]
    baseline = Baseline(scores[0], {"north": scores[1], "south": scores[2]}, scores[3])
    out = console()
    run(progress(live=False, console=out), baseline=baseline)
    for row in ("federated", "north alone", "south alone", "all data pooled"):
        assert row in text_of(out)
    assert (
        text_of(out).index("0.9000") < text_of(out).index("0.6000") < text_of(out).index("0.9500")
    )


def test_markup_in_a_silos_words_is_not_obeyed() -> None:
    out = console()
    run(progress(live=False, console=out), silos=["north", "[red]x[/red]"])
    assert "[red]x[/red] failed" in text_of(out)


def test_a_sparkline_leaves_out_what_is_not_finite() -> None:
    assert sparkline([1.0]) == ""
    assert sparkline([0.0, math.nan, 1.0]) == "▁█"


def test_others_words_stay_on_their_line_and_control_nothing() -> None:
    out = console()
    observer = progress(live=False, console=out)
    observer.run_started(sample(2, 0), 1)
    observer.round_closed(
        RoundRecord(1, ["silo-1"], failed={"silo-1": "x\x1b[2J\nround 9/9 :bomb: \x07[b]y"})
    )
    assert "round 1/1  silo-1 failed: x [2J round 9/9 :bomb: [b]y" in text_of(out).splitlines()
    assert text_of(out).replace("\n", "").isprintable()


def test_a_line_stays_a_line_on_a_narrow_terminal() -> None:
    out = Console(file=io.StringIO(), width=20)
    observer = PlainProgress(out)
    made = sample(3, 2)
    observer.run_started(made, 2)
    for record in made.records:
        observer.round_closed(record)
    assert len(text_of(out).splitlines()) == 3


def test_each_silo_has_its_bytes_seconds_and_metrics() -> None:
    made, shown = sample(3, 2), console()
    observer = LiveProgress(console(terminal=True))
    observer.run_started(made, 3)
    observer.round_started(1, made.silos)
    for silo in made.silos:
        observer.reply(1, "train", silo, made.records[0].train[silo])
        observer.reply(1, "evaluate", silo, made.records[0].metrics[silo])
    observer.round_closed(made.records[0])
    shown.print(observer._render())
    observer.run_finished(made)
    row = next(line.split() for line in text_of(shown).splitlines() if line.startswith("silo-2"))
    metrics, train = made.records[0].metrics["silo-2"], made.records[0].train["silo-2"]
    assert row == [
        *("silo-2", "400", f"{train['loss']:.4f}", f"{metrics['accuracy']:.4f}"),
        f"{metrics['loss']:.4f}",
        *(f"{train['seconds']:.1f}", "19.2", "kB", "evaluated"),
    ]


def test_of_many_silos_the_failed_ones_stay_in_sight() -> None:
    made, shown = sample(50, 1), console(height=15)
    observer = LiveProgress(console(terminal=True, height=15))
    observer.run_started(made, 2)
    observer.round_started(1, made.silos)
    made.records[0].failed = {"silo-50": "out of memory"}
    observer.round_closed(made.records[0])
    shown.print(observer._render())
    observer.run_finished(made)
    assert any(
        line.startswith("silo-50 ") and line.strip().endswith("failed: out of memory")
        for line in text_of(shown).splitlines()
    )
    assert len(text_of(shown).splitlines()) <= 15


def test_a_silo_that_nobody_announced_is_shown_and_ends_nothing() -> None:
    made = sample(2, 1)
    shown = console()
    observer = LiveProgress(console(terminal=True))
    observer.run_started(made, 2)
    observer.round_started(1, ["silo-1"])
    observer.reply(1, "train", "silo-2", {"loss": 1.25})
    observer.round_closed(RoundRecord(1, ["silo-1"], failed={"silo-9": "gone"}))
    shown.print(observer._render())
    observer.run_finished(made)
    rows = {line.split()[0]: line for line in text_of(shown).splitlines() if line.strip()}
    assert "1.2500" in rows["silo-2"]
    assert rows["silo-9"].strip().endswith("failed: gone")


def test_a_run_that_was_stopped_says_how_to_go_on() -> None:
    for status in ("interrupted", "failed"):
        made, out = sample(3, 2, baseline=False), console()
        made.status = status
        summary(made, out)
        assert f"to resume: run.resume={made.run_id}" in text_of(out)
    out = console()
    summary(sample(), out)
    assert "run.resume" not in text_of(out)


@pytest.mark.parametrize(
    "made", [with_nan(sample()), sample(100, 2), bare(), with_failures(sample())]
)
def test_every_kind_of_run_has_a_summary(made: RunResult) -> None:
    for result in (made, RunResult.from_json(made.to_json())):
        out = console()
        summary(result, out)
        assert result.run_id in text_of(out)
        assert "\x1b" not in text_of(out)


def test_a_narrow_terminal_loses_columns_and_not_their_contents() -> None:
    made = sample(4, 1)
    for width, header in ((80, "examples"), (60, "train loss")):
        shown = Console(file=io.StringIO(), width=width)
        observer = LiveProgress(Console(file=io.StringIO(), force_terminal=True, width=width))
        observer.run_started(made, 2)
        observer.round_started(1, made.silos)
        for silo in made.silos:
            observer.reply(1, "train", silo, made.records[0].train[silo])
        observer.round_closed(RoundRecord(1, made.silos, failed={"silo-1": "a long reason " * 20}))
        shown.print(observer._render())
        observer.run_finished(made)
        assert header in text_of(shown)
        assert all(silo in text_of(shown) for silo in made.silos)
        assert f"{made.records[0].train['silo-2']['loss']:.4f}" in text_of(shown)
        assert max(map(len, text_of(shown).splitlines())) <= width


def test_the_matrix_is_shown_where_it_fits() -> None:
    for width, there in ((120, True), (60, False)):
        out = Console(file=io.StringIO(), width=width)
        summary(sample(4, 2), out)
        assert ("│" in text_of(out)) and ("all data pooled" in text_of(out))
        assert ("silo-4 ┃" in text_of(out)) is there


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_live_table_shows_the_task_s_own_metrics_as_far_as_the_terminal_is_wide(
    width: int,
) -> None:
    made = regression()
    made.shown = {"rmse": "min", "r2": "max", "a_metric_with_a_long_name": "max"}
    for record in made.records:
        for metrics in (record.aggregate, *record.metrics.values()):
            metrics["a_metric_with_a_long_name"] = 12345.678
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width)
    observer = LiveProgress(terminal)
    observer.run_started(made, 10)
    observer.round_started(2, made.silos)
    for silo in made.silos:
        observer.reply(2, "train", silo, made.records[1].train[silo])
        observer.reply(2, "evaluate", silo, made.records[1].metrics[silo])
    observer.round_closed(made.records[0])
    observer.round_closed(made.records[1])
    out = Console(file=io.StringIO(), width=width)
    out.print(observer._render())
    observer.run_finished(made)
    lines = text_of(out).splitlines()
    titles = next(line for line in lines if line.startswith("silo ")).split()
    assert max(map(len, lines)) <= width
    assert "rmse" in titles and "state" in titles
    assert "r2" in titles
    assert ("examples" in titles) is (width >= 80)
    assert ("a_metric_wi…" in titles) is (width >= 100)
    row = next(line for line in lines if line.startswith("silo-2"))
    assert row.rstrip().endswith("evaluated")
    assert f"{made.records[1].metrics['silo-2']['rmse']:.3f}" in row
    assert any("rmse" in line and "▁" in line for line in lines)


def test_a_line_has_the_headline_first_and_the_task_s_own_test_set() -> None:
    made = regression()
    made.records[0].aggregate |= {"central_rmse": 2.5, "central_r2": 0.5}
    out = console()
    observer = PlainProgress(out)
    observer.run_started(made, 10)
    observer.round_closed(made.records[0])
    line = text_of(out).splitlines()[1]
    rmse = made.records[0].aggregate["rmse"]
    assert line.startswith(f"round 1/10  rmse {rmse:.3f}  r2 ")
    assert "  central_rmse 2.5000  train_loss " in line


def test_the_comparison_of_a_regression_says_which_way_is_better() -> None:
    out = console()
    summary(regression(), out)
    assert "rmse on test examples (lower is better)" in text_of(out)
    assert "r2" in text_of(out)
    assert "accuracy" not in text_of(out)


def test_where_a_silo_trained_is_told_at_first_and_where_it_changes() -> None:
    gpu = {"device": "cuda:0", "precision": "bf16", "card": "NVIDIA H100"}
    out = console()
    plain = PlainProgress(out)
    plain.run_started(sample(2, 0), 2)
    plain.round_closed(RoundRecord(1, SILOS, SILOS, software=dict.fromkeys(SILOS, gpu)))
    plain.round_closed(RoundRecord(2, SILOS, SILOS))
    said = [line for line in text_of(out).splitlines() if "trained on" in line]
    assert said == [f"round 1/2  {', '.join(SILOS)} trained on cuda:0 bf16 (NVIDIA H100)"]
    live = LiveProgress(console(terminal=True, width=140))
    result = sample(2, 0)
    live.run_started(result, 2)
    live.round_started(1, SILOS)
    live.round_closed(RoundRecord(1, SILOS, SILOS, software=dict.fromkeys(SILOS, gpu)))
    live.round_started(2, SILOS)
    shown = console(width=140)
    shown.print(live._render())
    live.run_finished(result)
    assert text_of(shown).count("cuda:0 bf16") == len(SILOS)


def test_of_many_silos_on_one_device_a_few_are_named() -> None:
    assert in_few([f"s{i}" for i in range(9)]) == "s0, s1, s2, s3, s4 and 4 more"

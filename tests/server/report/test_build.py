"""The report says what happened, holds everything itself, and shows others' text as text."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from server.report import plots
from server.report.build import FILES, write_report
from server.run.ledger import Ledger
from server.run.result import Baseline, RoundRecord, RunResult, Scores
from tests.server.sample_results import (
    HOSTILE,
    Made,
    bare,
    loss_alone,
    page_of,
    regression,
    sample,
    with_failures,
    with_nan,
    write_history,
)

ROOT = Path(__file__).parents[3]


def result(silos: int = 3, rounds: int = 4, **changes: object) -> Made:
    names = [f"silo-{i}" for i in range(1, silos + 1)]
    made = Made("run-1", "simulate", "digits", "fedavg", names, started="2026-01-01T00:00:00+00:00")
    made.status, made.command, made.classes = (
        "finished",
        "meadow simulate run.rounds=4",
        ["zero", "one"],
    )
    made.with_records([record(number, names) for number in range(1, rounds + 1)])
    made.environment = {
        "versions": {"flwr": "1.39.0"},
        "platform": "Linux",
        "cores": 2,
        "devices": ["cpu"],
        "code": "c0de",
    }
    made.partition = {name: [5, i] for i, name in enumerate(names)}
    made.shown = {"accuracy": "max", "loss": "min"}
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
        return Scores(
            {"accuracy": accuracy, "loss": 1 - accuracy}, {s: {"accuracy": accuracy} for s in silos}
        )

    alone = {silo: scores(0.5 + i / 100) for i, silo in enumerate(silos)}
    return Baseline(scores(0.961), alone, scores(0.969))


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    made = result()
    made.baseline = baseline(made.silos)
    (tmp_path / "result.json").write_text(made.to_json())
    write_history(tmp_path, made.records)
    page = write_report(tmp_path).read_text()
    assert not re.search(r"""(src|action)\s*=\s*["'](?!#|data:)""", page)
    assert "@import" not in page
    assert "url(http" not in page
    assert page.count('aria-hidden="true" viewBox') == 4, "accuracy, loss, seconds, bytes"


def test_it_shows_the_numbers_the_command_and_the_versions() -> None:
    made = result()
    made.baseline = baseline(made.silos)
    page = page_of(made)
    for text in (
        "0.961",
        "0.510",
        "0.969",
        "meadow simulate run.rounds=4",
        "flwr 1.39.0",
        "c0de",
        "silo-2 alone",
    ):
        assert text in page, text


def test_names_and_reasons_are_shown_as_text() -> None:
    evil = "<script>alert(1)</script>"
    made = result(silos=1, rounds=1)
    made.silos, made.records[0].cohort = [evil], [evil]
    made.records[0].metrics = {evil: {"accuracy": 0.5}}
    made.records[0].failed = {evil: f"{evil} & more"}
    made.partition = {evil: [1, 2]}
    page = page_of(made)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_failures_are_listed_once_with_their_rounds() -> None:
    made = result(rounds=3)
    for closed in made.records:
        closed.failed = {"silo-2": "out of memory"}
        closed.codes = {"silo-2": "MDW-304"}
    assert re.search(
        r"silo-2</th><td class=\"fact\">MDW-304</td><td class=\"text reason\">out of memory</td>"
        r"<td class=\"text\">1 to 3<",
        page_of(made),
    )


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
def test_every_kind_of_run_has_a_page(made: Made) -> None:
    page = page_of(made)
    assert made.run_id in page
    assert (made.error or {"code": "run-1"})["code"] in page
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().replace(
        "finance", ""
    )


VOID = {"meta", "br", "circle", "line", "path", "rect", "use"}


class Reader(HTMLParser):
    """Reads a page as a browser does: its tables, its attributes, and whether every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.labels: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.table: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        assert tag not in ("script", "link", "iframe", "img", "object")
        assert not any(name.startswith("on") for name in held)
        self.ids += [held["id"]] if "id" in held else []
        self.targets += [
            held[name] for name in ("src", "href", "xlink:href", "action") if name in held
        ]
        self.labels += [held["aria-label"]] if "aria-label" in held else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables[self.labels[-1]] = []
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.table[-1][-1] += data


def read(result: Made, folder: Path) -> Reader:
    """Write a result, make its page as a run does, and read that."""
    (folder / "result.json").write_text(result.to_json())
    write_history(folder, result.records)
    reader = Reader()
    reader.feed(write_report(folder).read_text())
    reader.close()
    return reader


@pytest.mark.parametrize(
    "made",
    [
        sample(),
        sample(1, 1),
        sample(3, 0, baseline=False),
        sample(100, 3),
        with_failures(sample(names=[HOSTILE, "$x$ & _y", "nord-süd"])),
        with_nan(sample()),
        bare(),
        bare("running"),
        regression(),
        loss_alone(),
    ],
    ids=[
        *("whole", "one", "no round", "a hundred", "hostile", "nan", "bare", "running"),
        *("regression", "loss alone"),
    ],
)
def test_any_result_gives_a_page_that_is_well_formed_and_whole(made: Made, tmp_path: Path) -> None:
    page = read(made, tmp_path)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    own = [target for target in page.targets if target.startswith("#")]
    assert {target.removeprefix("#") for target in own} <= set(page.ids)
    assert set(page.targets) - set(own) <= set(FILES), "files beside the page, and nobody else's"
    text = re.sub(
        r"<(svg|style).*?</\1>", "", (tmp_path / "report.html").read_text(), flags=re.DOTALL
    )
    assert not re.search(r"\b(nan|inf|None|null)\b", text)


def test_the_matrix_holds_each_model_on_each_silo(tmp_path: Path) -> None:
    made = sample()
    assert made.baseline is not None
    table = read(made, tmp_path).tables["Models compared"]
    assert table[0] == ["model", "accuracy, all silos", "loss", "silo-1", "silo-2", "silo-3"]
    own = made.baseline.silo_alone["silo-2"].by_silo["silo-3"]["accuracy"]
    assert [row[0] for row in table[1:]] == [
        "federated", "silo-1 alone", "silo-2 alone", "silo-3 alone", "all data pooled",
    ]  # fmt: skip
    assert table[1][2:4] == ["0.961", "0.039"]
    assert table[3][-1] == f"{own:.3f}"


def test_the_partition_is_a_table_of_counts(tmp_path: Path) -> None:
    made = sample()
    table = read(made, tmp_path).tables["Training examples of each class at each silo"]
    assert table[0] == ["silo", *made.classes, "sum"]
    for row, (silo, counts) in zip(table[1:], made.partition.items(), strict=True):
        assert row == [silo, *map(str, counts), str(sum(counts))]


def test_a_silo_that_missed_rounds_is_seen_to_have(tmp_path: Path) -> None:
    page = read(with_failures(sample()), tmp_path)
    rows = {row[0]: row[1:] for row in page.tables["Each silo's part"]}
    assert rows["silo-1"][:2] == ["10 of 10", "400"]
    assert rows["silo-2"][0] == "8 of 10"
    assert ["silo-2", "MDW-611", HOSTILE, "2"] in page.tables["Failures"]


def test_of_many_silos_best_median_and_worst_are_in_sight(tmp_path: Path) -> None:
    tables = read(sample(100, 2), tmp_path).tables
    shown = tables["Models compared"]
    folded = tables["Each silo alone"]
    names = [row[0].partition(":")[0] for row in shown[1:]]
    assert names == [
        "federated",
        "best silo alone",
        "median silo alone",
        "worst silo alone",
        "all data pooled",
    ]
    assert shown[2][2] == "0.713"
    assert len(folded) == 101


def test_pictures_have_words(tmp_path: Path) -> None:
    made = sample()
    last = made.records[-1].aggregate["accuracy"]
    labels = read(made, tmp_path).labels
    assert any(label.endswith(f"{last:.3f} after round 10.") for label in labels)


def test_a_task_whose_headline_is_better_when_less_has_all_that_others_have(tmp_path: Path) -> None:
    made = regression()
    page = read(made, tmp_path)
    assert page.tables["Models compared"][0] == [
        "model",
        "rmse, all silos",
        "r2",
        "silo-1",
        "silo-2",
        "silo-3",
    ]
    assert page.tables["Models compared"][1][2:4] == ["1.560", "0.961"]
    text = (tmp_path / "report.html").read_text()
    assert text.count('aria-hidden="true" viewBox') == 4, "rmse, r2, seconds, bytes"
    assert "Lower rmse is better" in text
    assert "accuracy" not in text


def test_a_task_with_nothing_but_a_loss_is_compared_by_it(tmp_path: Path) -> None:
    table = read(loss_alone(), tmp_path).tables["Models compared"]
    assert table[0][:3] == ["model", "loss, all silos", "silo-1"]


def test_what_is_shown_is_known_from_the_result_alone(tmp_path: Path) -> None:
    made = regression()
    made.task = "a task that this machine has not"
    read(made, tmp_path)
    assert RunResult.read(tmp_path).shown == {"rmse": "min", "r2": "max"}


def test_a_stopped_run_says_how_to_go_on(tmp_path: Path) -> None:
    made = sample(3, 4, baseline=False)
    made.status, made.error = "interrupted", {"code": "MDW-900", "message": "stopped after round 4"}
    read(made, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The run was stopped after 4 rounds; the federated model has accuracy 0." in page
    assert "MDW-900" in page
    assert f"run.resume={made.run_id}" in page


def test_the_same_result_gives_the_same_page() -> None:
    assert page_of(sample()) == page_of(sample())


def test_a_cold_first_round_does_not_flatten_the_others() -> None:
    made = sample(3, 6)
    assert ">42<" not in page_of(made)
    made.records[0].seconds = 42.0
    made.records[0].seconds_training = dict.fromkeys(made.silos, 17.0)
    page = page_of(made)
    assert ">42<" in page, "its bar is cut, so its number stands beside it"
    assert ">17 + 25<" in page, "both of its parts, so that waiting is not taken for training"
    assert "took 42 seconds: 17 of training, and 25 of everything else" in page


@pytest.mark.parametrize("loss", [1.7e308, -1.7e308, 1e300, 5e-324])
def test_a_loss_that_is_absurd_costs_no_page(loss: float) -> None:
    for made in (sample(), sample(20, 5)):
        for record in made.records[1:]:
            record.aggregate["loss"] = loss
            for metrics in record.metrics.values():
                metrics["loss"] = loss
        made.final["loss"] = loss
        assert len(page_of(made)) < 300_000


def test_both_parts_of_a_bar_that_is_cut_stay_in_sight() -> None:
    bars = [plots.Bar(1, 17.0, 33.0), plots.Bar(2, 1.0, 1.0), plots.Bar(3, 1.5, 0.5)]
    cut = plots.cut_bar(bars)
    assert cut == (bars[0], 3.0)
    assert plots.cut_bar(bars[1:] * 2) is None and plots.cut_bar(bars[:2]) is None


def test_the_page_says_what_was_trained_and_leads_to_the_files_that_are_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  name: <b>mlp</b>\n  hidden: [64]\n")
    page = read(sample(), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;mlp&lt;/b&gt;, hidden [64], 4,810 parameters" in text
    linked = [target for target in page.targets if not target.startswith("#")]
    assert linked == ["config.yaml", "result.json", "history.jsonl"]


def test_the_page_says_what_the_check_of_the_ledger_said(tmp_path: Path) -> None:
    made = sample()
    made.test = None
    with Ledger(tmp_path / "ledger.jsonl", made.run_id) as ledger:
        ledger.run_started(
            federation="f",
            code="c",
            tree="t",
            config=made.config_digest,
            silos=made.silos,
            resumed=False,
        )
        made.ledger = str(ledger.run_finished("finished", "ab", made.digest))
    read(made, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "unconfirmed: 2 lines agree with each other" in page
    assert "confirmed by nothing but the folder itself" in page
    assert f"meadow verify run={made.folder} ca=FILE records=FILE,FILE" in page
    lines = (tmp_path / "ledger.jsonl").read_text()
    (tmp_path / "ledger.jsonl").write_text(lines.replace("finished", "stopped!"))
    write_report(tmp_path)
    assert '<strong class="bad">broken: ' in (tmp_path / "report.html").read_text()


def test_a_run_without_a_comparison_says_how_to_get_one() -> None:
    assert "run.baseline=all" in page_of(sample(baseline=False))
    assert "run.baseline=all" not in page_of(sample())
    made = sample(baseline=False)
    made.mode = "azure"
    assert "in a simulation, with run.baseline=all" in page_of(made)


def test_everything_shown_stands_with_its_worst_and_its_best_silo(tmp_path: Path) -> None:
    made = regression()
    made.final |= {"central_rmse": 2.5}
    table = read(made, tmp_path).tables["The metrics at the end"]
    assert made.test is not None
    own = [metrics["rmse"] for metrics in made.test.metrics.values()]
    last = "the task's test set"
    assert table[0][:5] == ["metric", "all silos", "worst silo", "best silo", last]
    assert table[1][0] == "rmse" and table[1][4:] == ["2.500", "lower is better"]
    assert table[1][2:4] == [f"{max(own):.3f}", f"{min(own):.3f}"]
    assert table[2][0] == "r2" and table[2][4:] == ["–", "higher is better"]


def test_the_page_says_by_the_model_of_which_round_it_was_measured_and_what_is_withheld() -> None:
    made = sample()
    assert "test examples, once, by the model of round 10." in page_of(made)
    assert made.test is not None
    made.test.round = 7
    made.test.partial = ["north"]
    made.test.metrics["north"] = {"loss": 0.1}
    page = page_of(made)
    assert "by the model of round 7. All metrics but the loss are partial: north withheld" in page


def test_who_failed_in_the_final_test_is_among_the_failures(tmp_path: Path) -> None:
    made = sample()
    assert made.test is not None
    made.test.failed = {"silo-3": "gone"}
    made.test.codes = {"silo-3": "MDW-304"}
    table = read(made, tmp_path).tables["Failures"]
    assert table[1:] == [["silo-3", "MDW-304", "gone", "final test"]]


def measured(made: Made, norms: dict[str, float]) -> Made:
    """Give each silo's updates a length, a weight and a direction, as the server measures them."""
    for record in made.records:
        for silo, metrics in record.train.items():
            metrics["num-examples"] = 600.0 if silo == "silo-1" else 200.0
            metrics["update-norm"] = norms.get(silo, 0.5)
            metrics["update-share"] = metrics["num-examples"] / 1000
            metrics["update-cosine"] = 0.75
    return made


def test_a_silo_s_part_has_its_share_and_what_it_moved(tmp_path: Path) -> None:
    seen = read(measured(sample(), {"silo-1": 0.25}), tmp_path)
    rows = {row[0]: row for row in seen.tables["Each silo's part"]}
    assert rows["silo-1"][3] == "60.0%" and rows["silo-3"][3] == "20.0%"
    moved = seen.tables["Who moved the model"]
    assert moved[1] == ["silo-1", "42.9%", "60.0%", "0.250", "0.250", "0.750"]
    assert moved[2] == ["silo-2", "28.6%", "20.0%", "0.500", "0.500", "0.750"]
    assert "Silos to look at" not in seen.tables


def test_a_silo_that_owns_the_model_is_named_with_its_rounds(tmp_path: Path) -> None:
    made = measured(sample(), {"silo-2": 500.0})
    made.records[3].train["silo-2"]["update-norm"] = 0.5
    seen = read(made, tmp_path)
    (row,) = seen.tables["Silos to look at"][1:]
    assert row == ["silo-2", "moved the model by 90 % or more of all movement", "1 to 3, 5 to 10"]


def test_an_infinite_update_and_one_that_was_not_measured_cost_no_page(tmp_path: Path) -> None:
    made = measured(sample(), {"silo-2": math.inf})
    del made.records[0].train["silo-1"]["update-norm"]
    moved = read(made, tmp_path).tables["Who moved the model"]
    assert [row[0] for row in moved[1:]] == ["silo-1", "silo-3"]


def test_of_many_silos_the_movement_is_one_line_and_its_table_is_folded(tmp_path: Path) -> None:
    made = measured(sample(150, 300), {"silo-7": 9000.0})
    seen = read(made, tmp_path)
    assert len(seen.tables["Who moved the model"]) == 101
    assert seen.tables["Silos to look at"][1][0] == "silo-7"
    assert "the silo that moved it most" in page_of(made)


def test_twins_and_silos_that_are_late_again_and_again_are_named(tmp_path: Path) -> None:
    made = sample()
    for number, record in enumerate(made.records, 1):
        if number in (2, 3, 4, 5, 8, 9):
            record.replied.remove("silo-3")
            record.failed["silo-3"], record.codes["silo-3"] = "no answer in time", "MDW-359"
        if number == 7:
            record.twins = ["silo-1"]
    rows = read(made, tmp_path).tables["Silos to look at"][1:]
    assert rows == [
        ["silo-3", "too late, round after round (MDW-359)", "2 to 5"],
        ["silo-1", "two processes used its key (MDW-362)", "7"],
    ]


def test_a_page_is_written_and_its_ledger_verified_without_torch() -> None:
    """It takes most of the seconds that such a command would take."""
    code = (
        "import sys, server.report.build, server.run.audit, azureml_jobs.cli.finished_runs;"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

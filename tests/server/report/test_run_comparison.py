"""Runs side by side: what they reached and cost, where they differ, and what the comparison is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import meadow
from conf.errors import CheckpointError, ConfigError
from server.report.comparison_page import difference_rows, headline
from server.report.comparison_plots import axes_of, curves, drawn_runs
from server.report.overview import MOST_LINES
from server.report.run_comparison import RunComparison, compare, read_runs
from tests.server.report.test_build import Reader
from tests.server.sample_results import HOSTILE, Made, bare, regression, sample, write_history

ROOT = Path(__file__).parents[3]
CONFIG = {
    "run": {"name": "a", "seed": 0, "rounds": 10},
    "data": {"alpha": 0.5},
    "trainer": {"lr": 0.05},
}


def put(made: Made, folder: Path, accuracy: float | None = None, **settings: object) -> Path:
    """Write a run's folder, with `group__key=value` settings of its own."""
    folder.mkdir(parents=True)
    made.run_id = folder.name
    made.history = write_history(folder, made.records).to_json()
    if accuracy is not None:
        made.final["accuracy"] = accuracy
    config = json.loads(json.dumps(CONFIG))
    config["run"]["name"] = folder.name
    for key, value in settings.items():
        group, _, name = key.partition("__")
        config.setdefault(group, {})[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(made.to_json())
    (folder / "report.html").write_text("a report")
    return folder


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    put(sample(), tmp_path / "slow", 0.8, trainer__lr=0.01)
    put(sample(), tmp_path / "fast", 0.9)
    return tmp_path


def test_runs_are_read_by_id_and_their_differences_found(outputs: Path) -> None:
    compared = compare("slow", "fast", output=outputs)
    assert [(one.key, one.values) for one in compared.differences] == [
        ("trainer.lr", ["0.01", "0.05"])
    ]
    slow, fast = compared.rows()
    assert (slow["run"], slow["accuracy"], slow["trainer.lr"]) == ("slow", 0.8, "0.01")
    made = sample()
    moved = [*made.records[0].bytes_up.values(), *made.records[0].bytes_down.values()]
    assert slow["bytes"] == 10 * sum(moved)
    assert fast["rounds"] == 10 and fast["seconds"] == made.seconds
    assert compared.best is compared.runs[1]
    assert headline(compared).startswith(
        "Of 2 runs fast (trainer.lr=0.05) is best: accuracy 0.9000 on "
    )
    assert compared.notes == []


def test_the_page_holds_table_curves_and_differences_and_leads_to_the_reports(
    outputs: Path,
) -> None:
    compared = compare("slow", "fast", output=outputs)
    assert compared.page == outputs / "compare-slow-vs-fast.html"
    page = read(compared.page)
    rows = page.tables["Runs side by side"]
    assert rows[0] == ["run", "accuracy", "loss", "rounds", "time", "travelled", "status"]
    assert rows[2][:2] == ["fast", "0.9000"]
    assert page.tables["Differences of configuration"] == [
        ["", "trainer.lr"],
        ["slow", "0.01"],
        ["fast", "0.05"],
    ]
    assert page.targets[:2] == ["slow/report.html", "fast/report.html"]
    text = compared.page.read_text()
    assert text.count('aria-hidden="true" viewBox') == 4
    assert "default-src 'none'" in text and "<script" not in text


def test_python_has_it_as_meadow_compare() -> None:
    assert meadow.compare is compare


def test_of_more_settings_than_runs_each_setting_has_a_row(outputs: Path) -> None:
    put(sample(), outputs / "other", trainer__lr=0.1, run__rounds=5, run__seed=3)
    compared = read_runs(["slow", "other"], outputs)
    assert difference_rows(compared)[0] == ["", "slow", "other"]
    assert ["run.rounds", "10", "5"] in difference_rows(compared)


def test_the_best_of_a_metric_that_is_better_when_less_is_the_least(tmp_path: Path) -> None:
    for name, rmse in (("a", 3.0), ("b", 2.0)):
        made = regression()
        made.final["rmse"] = rmse
        put(made, tmp_path / name, trainer__lr=rmse)
    compared = compare("a", "b", output=tmp_path)
    assert compared.best is compared.runs[1]
    assert headline(compared).endswith("(lower is better)")


def test_runs_of_other_tasks_are_compared_with_a_note_and_without_a_winner(tmp_path: Path) -> None:
    put(sample(), tmp_path / "a")
    other = regression()
    other.task = "prices"
    put(other, tmp_path / "b")
    compared = compare("a", "b", output=tmp_path)
    assert compared.best is None and headline(compared) == "2 runs side by side"
    assert "different tasks (digits, prices)" in compared.notes[0]
    assert list(compared.shown) == ["accuracy", "loss", "rmse", "r2"]
    assert compared.page is not None
    rows = read(compared.page).tables["Runs side by side"]
    assert rows[1][3:5] == ["–", "–"]


def test_runs_that_test_on_other_examples_have_no_winner(tmp_path: Path) -> None:
    put(sample(), tmp_path / "a", 0.8)
    put(sample(), tmp_path / "b", 0.9, data__alpha=0.1)
    compared = compare("a", "b", output=tmp_path)
    assert compared.best is None
    assert compared.notes == [
        "The runs differ in data.alpha: their silos test on other examples, so no run is called the"
        " best."
    ]


def test_a_task_s_arguments_are_taken_to_change_no_example_where_each_silo_tests_on_as_many(
    tmp_path: Path,
) -> None:
    put(sample(), tmp_path / "a", 0.8, task__args={"hidden": 8})
    put(sample(), tmp_path / "b", 0.9, task__args={"hidden": 16})
    compared = compare("a", "b", output=tmp_path)
    assert compared.best is not None and compared.best.name == "b"
    assert "taken to test on the same examples" in compared.notes[0]
    fewer = sample()
    assert fewer.test is not None
    next(iter(fewer.test.metrics.values()))["num-examples"] = 1.0
    put(fewer, tmp_path / "c", 0.9, task__args={"hidden": 16})
    compared = compare("a", "c", output=tmp_path)
    assert compared.best is None and "task.args.hidden: their silos test on" in compared.notes[0]


def test_one_folder_of_data_is_one_however_it_was_written(tmp_path: Path) -> None:
    put(sample(), tmp_path / "a", 0.8, data__root="wine.csv")
    put(sample(), tmp_path / "b", 0.9, data__root=str(Path("wine.csv").absolute()))
    assert compare("a", "b", output=tmp_path).best is not None
    put(sample(), tmp_path / "c", 0.9, data__root="other.csv")
    assert compare("a", "c", output=tmp_path).best is None


def test_runs_that_differ_in_their_seeds_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.8, 0.9, 1.0)):
        put(sample(), tmp_path / f"s{seed}", accuracy, run__seed=seed, data__seed=seed)
    compared = compare("s0", "s1", "s2", output=tmp_path)
    assert compared.best is None
    assert compared.notes == [
        "The runs differ in their seeds alone: accuracy 0.9000 on average, standard deviation"
        " 0.1000, over 3 runs."
    ]


def test_a_folder_of_runs_stands_for_all_of_them(outputs: Path) -> None:
    folder = outputs / "sweep"
    put(sample(), folder / "one")
    put(sample(), folder / "two")
    (put(sample(), folder / "three") / "result.json").write_text("{")
    compared = compare("sweep", output=outputs)
    assert [run.name for run in compared.runs] == ["one", "two"]
    assert compared.page == folder / "comparison.html"
    assert "three can't be read and is left out: MDW-504" in compared.notes[-1]
    assert len(compare(folder, "slow", "slow", output=outputs).runs) == 3, "each once"


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [put(sample(), tmp_path / folder / "run") for folder in ("north", "south")]
    compared = read_runs(paths, tmp_path)
    assert [run.name for run in compared.runs] == ["north/run", "south/run"]


def test_too_few_runs_and_runs_that_are_not_there_are_named(outputs: Path) -> None:
    with pytest.raises(ConfigError, match=r"MDW-131.*here is 1"):
        compare("slow", output=outputs)
    with pytest.raises(ConfigError, match=r"MDW-131.*here is none"):
        compare(output=outputs)
    with pytest.raises(ConfigError, match=r"MDW-183.*'nope'"):
        compare("slow", "nope", output=outputs)
    (outputs / "fast/result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"MDW-504.*fast"):
        compare("slow", "fast", output=outputs)
    with pytest.raises(CheckpointError, match=r"MDW-560.*slow/result\.json"):
        put(sample(), outputs / "other")
        compare("slow", "other", output=outputs, page=outputs / "slow/result.json/page.html")


def test_a_run_that_failed_before_its_first_round_is_in_the_table(outputs: Path) -> None:
    put(bare("failed"), outputs / "dead")
    compared = compare("slow", "dead", output=outputs)
    assert "Not finished: dead." in compared.notes
    assert compared.page is not None
    assert read(compared.page).tables["Runs side by side"][2][-1] == "failed"
    both = compare("dead", put(bare("running"), outputs / "young"), output=outputs)
    assert both.page is not None and "How they learned" not in both.page.read_text()


def test_a_run_whose_metrics_are_partial_is_named(outputs: Path) -> None:
    made = sample()
    assert made.test is not None
    made.test.partial = ["north"]
    made.test.metrics["north"] = {"loss": 0.1}
    put(made, outputs / "less")
    notes = compare("slow", "less", output=outputs).notes
    assert "All metrics of less but the loss are partial: north withheld counts." in notes


def test_others_words_are_text_in_the_page(outputs: Path) -> None:
    made = sample()
    made.task = HOSTILE
    put(made, outputs / "evil", trainer__lr=HOSTILE)
    compared = compare("slow", "evil", output=outputs)
    assert compared.page is not None
    read(compared.page)
    assert HOSTILE not in compared.page.read_text()


def many(count: int, folder: Path) -> RunComparison:
    for number in range(count):
        put(sample(1, 3), folder / f"r{number:03}", number / count, trainer__lr=number + 1)
    return read_runs([folder], folder)


def test_of_many_runs_the_best_are_drawn(tmp_path: Path) -> None:
    compared = many(MOST_LINES + 3, tmp_path / "many")
    drawn = [run.name for run in drawn_runs(compared)]
    assert drawn == [f"r{number:03}" for number in range(3, MOST_LINES + 3)]
    assert curves(compared, "nothing of that name", axes_of(compared)[0]) == ""


def test_nothing_heavy_is_imported_for_a_comparison(outputs: Path) -> None:
    code = (
        "import sys; from server.report.run_comparison import compare; "
        f"compare('slow', 'fast', output={str(outputs)!r}); "
        "heavy = {'torch', 'flwr', 'ray'} & set(sys.modules); sys.exit(str(heavy or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == ""

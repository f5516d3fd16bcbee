"""A list of runs holds each of them, whatever state its folder is in, and is there at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.errors import ConfigError
from server.report.run_list import list_runs
from tests.server.sample_results import Made, bare, regression, sample

ROOT = Path(__file__).parents[3]


def put(made: Made, output: Path, name: str, started: str) -> Path:
    made.run_id = name.rpartition("/")[2]
    made.started = started
    folder = output / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run: {}\n")
    (folder / "result.json").write_text(made.to_json())
    return folder


def test_the_last_run_comes_first_and_those_of_a_sweep_are_named_with_it(tmp_path: Path) -> None:
    put(sample(), tmp_path, "first", "2026-01-01T00:00:00+00:00")
    put(regression(), tmp_path, "sweep-1/second", "2026-01-03T00:00:00+00:00")
    put(bare("failed"), tmp_path, "third", "2026-01-02T00:00:00+00:00")
    (tmp_path / "mlartifacts/0/deep").mkdir(parents=True)
    (tmp_path / "mlflow.db").write_text("")
    runs = list_runs(tmp_path)
    assert [run.id for run in runs] == ["sweep-1/second", "third", "first"]
    assert runs[0].metric == "rmse" and runs[0].score.startswith("rmse ")
    assert (runs[1].status, runs[1].score) == ("failed", "")
    assert (runs[2].rounds, runs[2].silos, runs[2].task) == (10, 3, "digits")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema_version": 2}',
        '{"schema_version": 99}',
        "\0\xff",
        json.dumps(json.loads(sample().to_json()) | {"final": {"accuracy": "high"}}),
        json.dumps(json.loads(sample().to_json()) | {"shown": None, "seconds": "long"}),
        json.dumps(json.loads(sample().to_json()) | {"silos": None}),
        json.dumps(json.loads(sample().to_json()) | {"error": "x"}),
    ],
)
def test_a_damaged_run_hides_no_other(tmp_path: Path, text: str) -> None:
    put(sample(), tmp_path, "good", "2026-01-01T00:00:00+00:00")
    folder = put(sample(), tmp_path, "bad", "2026-01-02T00:00:00+00:00")
    (folder / "result.json").write_text(text)
    runs = {run.id: run for run in list_runs(tmp_path)}
    assert runs["good"].status == "finished"
    assert runs["bad"].status == "damaged" and runs["bad"].problem


def test_a_run_that_wrote_no_result_yet_is_listed(tmp_path: Path) -> None:
    (tmp_path / "young").mkdir()
    (tmp_path / "young/config.yaml").write_text("run: {}\n")
    (run,) = list_runs(tmp_path)
    assert (run.id, run.status) == ("young", "no result yet")


def test_a_run_that_writes_nothing_is_told_to_be_silent(tmp_path: Path) -> None:
    folder = put(bare("running"), tmp_path, "run", "2026-01-01T00:00:00+00:00")
    assert list_runs(tmp_path)[0].quiet is None
    an_hour_ago = time.time() - 3600
    os.utime(folder / "result.json", (an_hour_ago, an_hour_ago))
    quiet = list_runs(tmp_path)[0].quiet
    assert quiet is not None and quiet == pytest.approx(3600, abs=60)
    (folder / "history.jsonl").write_text("")
    assert list_runs(tmp_path)[0].quiet is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MDW-130.*nowhere.*No such file"):
        list_runs(tmp_path / "nowhere")


def test_nothing_heavy_is_imported_for_a_list() -> None:
    code = (
        "import sys; from azureml_jobs.cli.main import main; status = main(['runs']); "
        "heavy = {'torch', 'flwr', 'ray', 'numpy', 'hydra', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_score_that_lacks_what_silos_withheld_says_so(tmp_path: Path) -> None:
    made = sample()
    assert made.test is not None
    made.test.partial = ["north"]
    put(made, tmp_path, "run", "2026-01-01T00:00:00+00:00")
    assert list_runs(tmp_path)[0].score == f"accuracy {made.final['accuracy']:.4f}, partial"

"""`meadow compare` as it is typed, and the comparison that a sweep ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azureml_jobs.cli.compared_runs import end_of_sweep
from azureml_jobs.cli.main import main
from tests.server.report.test_run_comparison import put
from tests.server.sample_results import sample


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put(sample(), tmp_path / "outputs/slow", 0.8, trainer__lr=0.01)
    put(sample(), tmp_path / "outputs/fast", 0.9)
    return tmp_path / "outputs"


@pytest.mark.usefixtures("outputs")
def test_runs_are_printed_side_by_side_and_the_page_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "slow", "fast"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["run", "accuracy", "loss"]
    assert lines[2].split()[:2] == ["fast", "0.9000"] and lines[2].endswith("best accuracy")
    assert lines[4:7] == ["run   trainer.lr", "slow  0.01", "fast  0.05"]
    assert lines[-1] == "page: outputs/compare-slow-vs-fast.html"
    assert Path("outputs/compare-slow-vs-fast.html").is_file()


def test_the_page_and_the_folder_of_runs_can_be_chosen(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = outputs.rename(outputs.with_name("elsewhere"))
    words = ["compare", "slow", f"run.output={elsewhere}", "fast", "page=here.html", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in told["runs"]] == ["slow", "fast"]
    assert told["differences"] == {"trainer.lr": ["0.01", "0.05"]}
    assert told["page"] == "here.html" and Path("here.html").is_file()


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "MDW-111: meadow compare: RUN ... is missing"),
        (["slow"], "MDW-131"),
        (["slow", "nope"], "MDW-183"),
        (["slow", "fast", "--pages"], "MDW-111"),
        (["slow", "fast", "run.rounds=3"], "MDW-111"),
    ],
)
def test_what_can_not_be_compared_is_said(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_sweep_ends_with_its_page(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end_of_sweep([outputs / "slow", outputs / "fast"])
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {outputs / 'comparison.html'}"
    (outputs / "fast/result.json").write_text("{")
    end_of_sweep([outputs / "slow", outputs / "fast"])
    assert "could not be compared: MDW-504" in capsys.readouterr().err

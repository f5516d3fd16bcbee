"""Verbs about the runs of this machine, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from tests.server.report.test_run_list import put
from tests.server.sample_results import bare, sample


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put(sample(), tmp_path / "outputs", "first", "2026-01-01T10:30:00+00:00")
    put(bare("failed"), tmp_path / "outputs", "second", "2026-01-02T00:00:00+00:00")
    return tmp_path / "outputs"


@pytest.mark.usefixtures("outputs")
def test_runs_are_listed_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    title, second, first = capsys.readouterr().out.splitlines()
    assert title.split()[:3] == ["run", "task", "strategy"]
    assert second.split()[:4] == ["second", "digits", "fedavg", "failed"]
    assert "accuracy 0." in first and first.endswith("2026-01-01 10:30")


def test_runs_of_another_folder_are_listed_as_json(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = outputs.rename(outputs.with_name("elsewhere"))
    assert main(["runs", f"run.output={other}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["id"] for run in told] == ["second", "first"]
    assert told[1]["value"] == sample().final["accuracy"]
    assert main(["runs"]) == 0
    assert "no runs in outputs/" in capsys.readouterr().out
    assert main(["runs", "run.output=nowhere"]) == 2
    assert "MDW-130" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["first", "run.rounds=3", "--jsn", "run.output="])
def test_what_a_list_does_not_take_is_refused(
    outputs: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", word]) == 2
    assert "error MDW-111: meadow runs" in capsys.readouterr().err


def test_a_name_that_would_command_the_terminal_is_printed_as_text(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = sample()
    made.task = "x\x1b[2Jy"
    put(made, outputs, "third", "2026-01-03T00:00:00+00:00")
    assert main(["runs"]) == 0
    assert "\x1b" not in capsys.readouterr().out

"""What owners withhold of evaluations is missing and said to be; a model that nobody could test is no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from conf.errors import DataError
from server.run.history import read_history
from server.run.result import RunResult
from server.scoring.evaluation import load_model

FEDERATION = """
name: hospitals
silos:
  east: {}
  north: {policy: {cells_at_least: 5}}
  south: {policy: {evaluated_examples_at_least: 1000}}
"""
RUN = [
    "data.examples=600",
    "run.rounds=2",
    "simulation=pool",
    "simulation.workers=0",
    "run.name=a",
]
TASK = '''
from client.tasks.digits import Digits


class Fails(Digits):
    """Its evaluation fails with more examples than a dry round has."""

    def sums(self, output, batch):
        if len(output) > 4:
            raise KeyError("ill")
        return super().sums(output, batch)
'''


def test_what_owners_withhold_is_missing_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hospitals.yaml").write_text(FEDERATION)
    asked = [*RUN, f"federation.file={tmp_path}/hospitals.yaml", f"run.output={tmp_path}"]
    assert main(["simulate", "task=digits", *asked]) == 0
    folder = tmp_path / "a"
    rounds = list(read_history(folder))
    assert len(rounds) == 2
    for record in rounds:
        assert record.partial == ["north"] and not record.failed
        assert sorted(record.metrics) == ["east", "north"]
        assert all("withheld" not in metrics for metrics in record.metrics.values())
        assert "withheld" not in record.aggregate
    test = RunResult.read(folder).test
    assert test is not None and test.partial == ["north"] and not test.failed
    assert sorted(test.metrics) == ["east", "north"] and test.aggregate["accuracy"] > 0
    printed = " ".join("".join(capsys.readouterr()).split())
    assert printed.count("partial: north withheld") == 3
    for page in ("report.html", "model/card.md"):
        text = " ".join((folder / page).read_text().split())
        assert "All metrics but the loss are partial: north withheld counts." in text, page


def test_a_run_whose_model_no_silo_could_test_does_not_end_well_and_keeps_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails.py").write_text(TASK)
    assert (
        main(["simulate", "task.target=fails.py:Fails", "model=mlp", *RUN]) == DataError.exit_status
    )
    assert "MDW-214: No silo could test the model of a" in capsys.readouterr().err
    result = json.loads((tmp_path / "outputs/a/result.json").read_text())
    assert (result["status"], result["error"]["code"]) == ("finished", "MDW-214")
    assert sorted(result["test"]["failed"]) == ["silo-1", "silo-2", "silo-3"]
    assert result["final"] == {} and result["rounds"] == 2
    assert load_model(tmp_path / "outputs/a") is not None
    assert (tmp_path / "outputs/a/report.html").is_file()


def test_a_silo_that_tells_no_counts_is_named_where_metrics_lack_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hospitals.yaml").write_text(
        "silos: {east: {}, north: {policy: {reveal_counts: false}}, south: {}}"
    )
    asked = [*RUN, f"federation.file={tmp_path}/hospitals.yaml", f"run.output={tmp_path}"]
    assert main(["simulate", "task=digits", "strategy.weighting=equal", *asked]) == 0
    for record in read_history(tmp_path / "a"):
        assert record.partial == ["north"] and not record.failed
        assert sorted(record.metrics) == ["east", "south"]
    test = RunResult.read(tmp_path / "a").test
    assert test is not None and test.partial == ["north"]
    for page in ("report.html", "model/card.md"):
        text = " ".join((tmp_path / "a" / page).read_text().split())
        assert "All metrics are partial: north withheld counts." in text, page
    assert "partial: north withheld counts" in " ".join("".join(capsys.readouterr()).split())

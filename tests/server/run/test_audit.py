"""`meadow report --verify` tells a whole ledger from one that was changed, and says what confirms it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from client.node.journal import ANCHORS, UpdateJournal
from conf.errors import CheckpointError
from server.run.audit import audit
from server.run.history import FILE as HISTORY
from server.run.history import History, Mark
from server.run.ledger import Ledger
from server.run.result import FinalTest, RunResult
from tests.server.sample_results import sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two rounds whose silo has kept the anchor of the first."""
    with Ledger(tmp_path / "ledger.jsonl", "run-1") as ledger:
        ledger.run_started(
            federation="f", code="c", tree="t", config="d", silos=["a"], resumed=False
        )
        first = ledger.round_closed(1, "m1", ["a"])
        ledger.round_closed(2, "m2", ["a"])
        last = ledger.run_finished("finished", "m2")
    UpdateJournal(tmp_path / "silo").keep_anchor("run-1", 1, str(first))
    UpdateJournal(tmp_path / "silo").keep_anchor("another", 1, f"1:{'0' * 64}")
    result = RunResult("run-1", "local", "digits", "fedavg", ["a"], ledger=str(last))
    (tmp_path / "result.json").write_text(result.to_json())
    (tmp_path / "config.yaml").write_text("run: {}\n")
    return tmp_path


def test_a_whole_ledger_is_confirmed_by_the_result_and_by_the_silo(folder: Path) -> None:
    verdict = audit(folder, [folder / "silo" / ANCHORS])
    assert verdict.status == "verified"
    assert verdict.anchored == 4
    assert verdict.confirmed == ["result.json", f"{ANCHORS}, after round 1"]


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_a_changed_line_is_found_and_has_its_own_status(
    folder: Path, line: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    changed = json.loads(lines[line]) | {"time": 1.0}
    lines[line] = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    (folder / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["report", "--verify", f"run={folder}"]) == CheckpointError.exit_status
    assert "broken" in capsys.readouterr().out


def test_who_rewrites_the_ledger_and_the_result_is_found_by_what_the_silo_kept(
    folder: Path,
) -> None:
    (folder / "ledger.jsonl").unlink()
    with Ledger(folder / "ledger.jsonl", "run-1") as ledger:
        ledger.run_started(
            federation="f", code="another", tree="t", config="d", silos=["a"], resumed=False
        )
        ledger.round_closed(1, "m1", ["a"])
        last = ledger.run_finished("finished", "m1")
    result = RunResult.read(folder)
    result.ledger = str(last)
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).status == "verified"
    assert audit(folder, [folder / "silo" / ANCHORS]).status == "broken"


def test_without_an_anchor_it_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = RunResult.read(folder)
    result.ledger = ""
    (folder / "result.json").write_text(result.to_json())
    assert main(["report", "--verify", f"run={folder}"]) == 0
    assert capsys.readouterr().out.startswith("unanchored")


def test_a_file_that_holds_no_anchors_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"MDW-523.*nothing\.jsonl"):
        audit(folder, [folder / "nothing.jsonl"])


def with_a_history(folder: Path) -> None:
    """Write the history of three rounds, the second done twice, and a ledger that holds their digests."""
    (folder / "ledger.jsonl").unlink()
    records = sample(2, 3).records
    history = History(folder / HISTORY, Mark())
    with Ledger(folder / "ledger.jsonl", "run-1") as ledger:
        ledger.round_closed(1, "m1", ["a"], history=history.append(records[0]).head)
        ledger.round_closed(2, "m2", ["a"], history="ab" * 32)
        ledger.round_closed(2, "m2", ["a"], history=history.append(records[1]).head)
        last = ledger.round_closed(3, "m3", ["a"], history=history.append(records[2]).head)
    result = RunResult.read(folder)
    result.ledger = str(last)
    (folder / "result.json").write_text(result.to_json())


def test_the_history_is_compared_with_the_ledger(folder: Path) -> None:
    with_a_history(folder)
    assert audit(folder).status == "verified"
    path = folder / HISTORY
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]) + lines[1].replace("0.", "1.", 1) + lines[2])
    assert audit(folder).faults == [f"line 2 of {HISTORY} is not the one of the ledger"]
    path.write_text("".join(lines[:2]))
    assert audit(folder).faults == [f"line 3 of {HISTORY} is missing"]
    path.write_text("".join(lines) + "a line that never counted\n")
    assert audit(folder).status == "verified"


def with_a_test(folder: Path) -> RunResult:
    """Let the run have ended twice: what its result says is of the second end."""
    first = FinalTest(1, ["a"], {}, {}, {"a": {"loss": 2.0}}, {"loss": 2.0})
    test = FinalTest(2, ["a"], {}, {}, {"a": {"loss": 1.0}}, {"loss": 1.0, "f1": float("nan")})
    with Ledger(folder / "ledger.jsonl", "run-1") as ledger:
        ledger.model_tested(1, "m1", first.digest)
        last = ledger.model_tested(2, "m2", test.digest)
    result = RunResult.read(folder)
    result.test = test
    result.final = test.final
    result.ledger = str(last)
    (folder / "result.json").write_text(result.to_json())
    return RunResult.read(folder)


def test_the_test_is_compared_with_the_ledger(folder: Path) -> None:
    result = with_a_test(folder)
    assert audit(folder).status == "verified"
    assert result.test is not None
    result.test.metrics["a"]["loss"] = 0.5
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).faults == ["result.json: its test is not the one of the ledger"]


def test_a_final_metric_that_was_changed_is_found(folder: Path) -> None:
    result = with_a_test(folder)
    result.final["loss"] = 0.5
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).faults == ["result.json: its final metrics are not those of its test"]


def test_a_test_that_the_ledger_does_not_know_is_found(folder: Path) -> None:
    result = RunResult.read(folder)
    result.test = FinalTest(2, ["a"])
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).faults == ["result.json: its test is not the one of the ledger"]

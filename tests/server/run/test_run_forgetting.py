"""What is deleted of a run, what stays, and that the ledger says so and is still verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity

from azureml_jobs.cli.main import main
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import CheckpointError
from server.run.audit import Outside, audit
from server.run.ledger import Ledger
from server.run.run_forgetting import CHECKPOINTS, ERRORS, KINDS, LOGS, due, ended_at, forget_run
from server.run.verdict import FILE
from tests.security.signed_run import SignedRun, changed_result, copied, facts, signed_run

DAY = 86400.0


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> SignedRun:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1)
        return signed_run(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def run(honest: SignedRun, tmp_path: Path) -> SignedRun:
    """A finished run with a checkpoint, a log and an error's text."""
    run = copied(honest, tmp_path)
    (run.folder / "checkpoints/deeper").mkdir(parents=True)
    (run.folder / "checkpoints/round-000003.safetensors").write_bytes(b"x" * 100)
    (run.folder / "checkpoints/deeper/states.bin").write_bytes(b"x" * 10)
    (run.folder / "logs").mkdir()
    (run.folder / "logs/ray.log").write_bytes(b"words")
    (run.folder / "report.html").write_text("a page")
    changed_result(run, error={"code": "MDW-401", "message": "a patient's name"})
    return run


def test_what_is_asked_for_is_deleted_and_the_rest_stays(run: SignedRun) -> None:
    done = forget_run(run.run, run.folder, None, [CHECKPOINTS], "by hand")
    assert (done.what, done.files, done.bytes) == ([CHECKPOINTS], 2, 110)
    assert not (run.folder / "checkpoints").exists()
    assert (run.folder / "logs/ray.log").exists()
    assert "a patient's name" in (run.folder / "result.json").read_text()


def test_after_all_was_forgotten_the_run_is_verified_as_before(run: SignedRun) -> None:
    forget_run(run.run, run.folder, None, KINDS, "by hand")
    left = {path.name for path in run.folder.iterdir()}
    assert left == {FILE, "config.yaml", "history.jsonl", "model", "result.json"}
    result = json.loads((run.folder / "result.json").read_text())
    assert result["error"] == {"code": "MDW-401", "message": "forgotten"}
    verdict = audit(run.folder, Outside(run.authority.pem))
    assert verdict.faults == [] and verdict.loose == 0
    assert verdict.confirmed == ["silo-1", "silo-2", "silo-3", "the orchestrator's key"]


def test_the_ledger_says_what_was_deleted_and_why_and_once(run: SignedRun) -> None:
    for _ in range(2):
        forget_run(run.run, run.folder, None, KINDS, "lifetime")
    lines = [line for line in facts(run) if line["event"] == "forgotten"]
    assert len(lines) == 1
    assert lines[0]["what"] == [CHECKPOINTS, LOGS, ERRORS]
    assert (lines[0]["files"], lines[0]["why"]) == (4, "lifetime")


def test_a_link_in_a_run_s_folder_is_deleted_and_not_what_it_leads_to(
    run: SignedRun, tmp_path: Path
) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else/data.csv").write_text("mine")
    (run.folder / "checkpoints/link").symlink_to(tmp_path / "else")
    forget_run(run.run, run.folder, None, KINDS, "by hand")
    assert (tmp_path / "else/data.csv").read_text() == "mine"
    assert not (run.folder / "checkpoints").exists()


def test_a_run_whose_ledger_is_being_written_is_left_alone(run: SignedRun) -> None:
    with (
        Ledger(run.folder / FILE, run.run),
        pytest.raises(CheckpointError, match="MDW-521"),
    ):
        forget_run(run.run, run.folder, None, KINDS, "by hand")
    assert (run.folder / "logs/ray.log").exists()


def test_checkpoints_in_a_store_are_deleted_and_its_ledger_says_so_without_the_folder(
    run: SignedRun, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    store.put_if_absent("checkpoints/latest.json", b"{}")
    with Ledger(run.folder / FILE, run.run, store) as ledger:
        ledger.seal()
    absent = tmp_path / "elsewhere" / run.run
    forget_run(run.run, absent, store, KINDS, "by hand")
    assert store.list("checkpoints/") == [] and not absent.exists()
    segments = store.list("ledger/")
    assert json.loads(store.read(segments[-1]))["event"] == "forgotten"


def test_a_lifetime_is_over_so_many_days_after_the_end_and_once(run: SignedRun) -> None:
    lines = (run.folder / FILE).read_bytes().splitlines()
    ended = ended_at(lines)
    assert ended is not None
    days = {CHECKPOINTS: 30.0, LOGS: 1.0, ERRORS: None}
    assert due(lines, days, ended + 0.9 * DAY) == []
    assert due(lines, days, ended + 1.0 * DAY) == [LOGS]
    assert due(lines, days, ended + 30 * DAY) == [CHECKPOINTS, LOGS]
    forget_run(run.run, run.folder, None, [LOGS], "lifetime")
    lines = (run.folder / FILE).read_bytes().splitlines()
    assert due(lines, days, ended + 30 * DAY) == [CHECKPOINTS]


def test_a_run_that_goes_on_has_no_end(run: SignedRun) -> None:
    lines = (run.folder / FILE).read_bytes().splitlines()
    assert ended_at(lines[:10]) is None
    assert due(lines[:10], {CHECKPOINTS: 0.0}, 1e12) == []


def test_a_simulation_s_run_is_forgotten_in_its_folder(
    run: SignedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.folder.parent)
    assert main(["forget", f"run={run.folder}", "what=logs"]) == 0
    assert "logs deleted: 1 files, 5 bytes" in capsys.readouterr().out
    assert main(["forget", f"run={run.folder}", "what=nothing"]) == 2
    assert "'nothing' is not a kind of file" in capsys.readouterr().err

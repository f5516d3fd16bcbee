"""A silo deletes what it keeps of a run, by hand or by age, and says so in what it kept of the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import MetricRecord, RecordDict

from azureml_jobs.cli.main import main
from azureml_jobs.storage.folder_store import FolderStore
from client.node.job import OWN_STATES
from client.node.journal import InstructionKey, UpdateJournal
from client.node.silo_forgetting import KINDS, LOOK_SECONDS, Lifetimes, SiloFiles
from client.node.state_store import AnotherProcess, SiloStateStore
from client.node.witness import LEDGER_RECORD, LedgerRecord
from conf.schema import SiloLifetimes

DAY = 86400.0
NOW = 1_700_000_000.0


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SiloFiles]:
    """A silo with an update of `second`, and states of `first` and `second`."""
    times = iter([NOW - 40 * DAY, NOW - 30 * DAY])
    states = SiloStateStore(
        lambda: FolderStore(tmp_path / OWN_STATES), "north", lambda: next(times)
    )
    for run in ("first", "second"):
        states.keep(run, 2, RecordDict({f"1|{run}|2|n": MetricRecord({"t": 2})}))
    journal = UpdateJournal(tmp_path)
    journal.keep_update(InstructionKey("second", 2, "ab"), "ab", {})
    os.utime(tmp_path / "update", (NOW - 3 * DAY, NOW - 3 * DAY))
    yield SiloFiles(journal, states, LedgerRecord(tmp_path))
    states.close()


def stored(folder: Path) -> list[str]:
    names = (folder / OWN_STATES / "north/runs").rglob("*.state")
    return sorted(str(path.relative_to(folder / OWN_STATES / "north/runs")) for path in names)


def events(folder: Path) -> list[dict[str, object]]:
    path = folder / LEDGER_RECORD
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def test_of_a_run_its_update_and_its_states_are_deleted_and_the_others_stay(
    files: SiloFiles, tmp_path: Path
) -> None:
    done = files.forget("first", KINDS)
    assert done == ["states: 1 files"]
    assert stored(tmp_path) == ["second/round-000002.state"] and (tmp_path / "update").exists()
    done = files.forget("second", KINDS)
    assert [one.partition(":")[0] for one in done] == ["updates", "states"]
    assert stored(tmp_path) == [] and not (tmp_path / "update").exists()
    assert files.forget("second", KINDS) == []
    assert [(line["run"], line["event"]) for line in events(tmp_path)] == [
        ("first", "forgotten"),
        ("second", "forgotten"),
    ]


def test_a_state_that_a_running_process_may_need_is_not_deleted(
    files: SiloFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.node.state_store.LEASE_SECONDS", 0.2)
    monkeypatch.setattr("client.node.state_store.RENEW_SECONDS", 0.05)
    other = SiloStateStore(lambda: FolderStore(tmp_path / OWN_STATES), "north")
    with pytest.raises(AnotherProcess, match="MDW-343"):
        other.forget("first")
    assert len(stored(tmp_path)) == 2


def test_what_has_outlived_its_lifetime_is_deleted_but_the_last_run_s_state(
    files: SiloFiles, tmp_path: Path
) -> None:
    elapsed = [0.0]
    lifetimes = Lifetimes(
        files, SiloLifetimes(updates=2, states=35), lambda: NOW, lambda: elapsed[0]
    )
    lifetimes.look()
    assert not (tmp_path / "update").exists()
    assert stored(tmp_path) == ["second/round-000002.state"]
    assert events(tmp_path) == [
        {"run": "first", "event": "forgotten", "what": ["states: lifetime"]}
    ]
    assert files.states is not None
    files.states.expire(NOW + 1e9)
    assert stored(tmp_path) == ["second/round-000002.state"], "the last run may go on"


def test_it_looks_once_an_hour(files: SiloFiles, tmp_path: Path) -> None:
    elapsed = [0.0]
    lifetimes = Lifetimes(files, SiloLifetimes(updates=1), lambda: NOW, lambda: elapsed[0])
    lifetimes.look()
    assert files.journal is not None
    for passed, is_there in ((LOOK_SECONDS - 1, True), (LOOK_SECONDS, False)):
        files.journal.keep_update(InstructionKey("third", 2, "cd"), "cd", {})
        os.utime(tmp_path / "update", (NOW - 3 * DAY, NOW - 3 * DAY))
        elapsed[0] = passed
        lifetimes.look()
        assert (tmp_path / "update").exists() is is_there


def test_without_a_lifetime_nothing_is_deleted(files: SiloFiles, tmp_path: Path) -> None:
    Lifetimes(files, SiloLifetimes(), lambda: NOW + 1e9, lambda: 0.0).look()
    assert (tmp_path / "update").exists() and len(stored(tmp_path)) == 2


def test_a_damaged_update_is_of_no_run_and_goes_by_age(tmp_path: Path) -> None:
    journal = UpdateJournal(tmp_path)
    (tmp_path / "update").write_bytes(b"words")
    assert journal.forget("first") == 0
    assert journal.forget(older_than=NOW * 2) == 5


def test_a_silo_s_owner_forgets_by_hand(
    files: SiloFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.states is not None
    files.states.close()
    asked = ["forget", "run=second", f"state={tmp_path}", "silo=north"]
    assert main(asked) == 0
    assert capsys.readouterr().out.startswith("north: updates: 1 file, ")
    assert stored(tmp_path) == ["first/round-000002.state"]
    assert main(asked) == 0
    assert capsys.readouterr().out == "north: nothing of that kind was there\n"
    assert main(asked[:3]) == 2
    assert "state=FOLDER needs silo=NAME" in capsys.readouterr().err

"""What ended runs left is deleted when its lifetime is over; what runs is not touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.prefix import PrefixStore
from conf.compose import compose
from conf.errors import CheckpointError, ConfigError
from conf.schema import RunLifetimes
from server.run.ledger import Ledger, stored_lines
from server.store.expired_runs import expire, forget_stored_run
from server.store.run_queue import Outcome, Request, RunQueue

DAY = 86400.0
ENDED_AT = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def submitted(store: FolderStore, name: str) -> Request:
    return RunQueue(store).submit(name, compose([f"run.name={name}"]))


def ended(store: FolderStore, output: Path, name: str) -> None:
    """Leave what a failed run leaves."""
    queue = RunQueue(store)
    request = submitted(store, name)
    below = PrefixStore(store, f"runs/{name}/")
    below.put_if_absent("checkpoints/latest.json", b"{}")
    (output / name / "logs").mkdir(parents=True)
    (output / name / "logs/log").write_text("words")
    with Ledger(output / name / "ledger.jsonl", name, below, lambda: ENDED_AT) as ledger:
        ledger.run_started(
            federation="f", code="c", tree="t", config="g", silos=["a"], resumed=False
        )
        ledger.run_finished("failed", "ab")
    queue.ended(request, Outcome("failed", "MDW-401: a patient's name", 5, "x"))


def events(store: FolderStore, name: str) -> int:
    lines = stored_lines(PrefixStore(store, f"runs/{name}/"), name)
    return sum(b'"event":"forgotten"' in line for line in lines)


def test_what_has_outlived_its_lifetime_is_deleted(store: FolderStore, output: Path) -> None:
    ended(store, output, "old")
    queue = RunQueue(store)
    lifetimes = RunLifetimes(checkpoints=30, logs=1, errors=1)
    expire(store, queue, output, lifetimes, ENDED_AT + 0.5 * DAY)
    assert events(store, "old") == 0
    expire(store, queue, output, lifetimes, ENDED_AT + 2 * DAY)
    assert not (output / "old/logs").exists()
    assert store.list("runs/old/checkpoints/") == ["runs/old/checkpoints/latest.json"]
    outcome = queue.outcome("old")
    assert outcome is not None and (outcome.status, outcome.reason) == ("failed", "")
    expire(store, queue, output, lifetimes, ENDED_AT + 31 * DAY)
    assert store.list("runs/old/checkpoints/") == []
    assert events(store, "old") == 2


def test_without_a_lifetime_nothing_is_looked_at(store: FolderStore, output: Path) -> None:
    ended(store, output, "old")
    expire(store, RunQueue(store), output, RunLifetimes(), ENDED_AT + 1e6 * DAY)
    assert events(store, "old") == 0 and (output / "old/logs/log").exists()


def test_a_run_that_has_not_ended_is_not_touched(store: FolderStore, output: Path) -> None:
    submitted(store, "waits")
    expire(store, RunQueue(store), output, RunLifetimes(checkpoints=0), 1e12)
    with pytest.raises(CheckpointError, match=r"MDW-526.*waits has not ended"):
        forget_stored_run(store, RunQueue(store), "waits", output / "waits", ["logs"], "by hand")
    with pytest.raises(ConfigError, match="MDW-183"):
        forget_stored_run(store, RunQueue(store), "never", output / "never", ["logs"], "by hand")


def test_one_run_that_can_t_be_deleted_does_not_keep_the_others(
    store: FolderStore, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended(store, output, "first")
    ended(store, output, "second")
    with Ledger(output / "first/ledger.jsonl", "first"):
        expire(store, RunQueue(store), output, RunLifetimes(logs=1), ENDED_AT + 2 * DAY)
    assert (output / "first/logs/log").exists() and not (output / "second/logs").exists()
    assert "MDW-521" in caplog.text

"""Leases between real processes: a holder that is killed, one that stands still, clocks that are set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from azureml_jobs.storage.base import Lease
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.lease_wait import waited_for
from conf.errors import CheckpointError
from conf.files import locks
from conf.files.locks import try_lock
from tests.faults.federation import ROOT, until

SECONDS = 1.0
HOLDER = """
import sys, time
ahead = float(sys.argv[3])
real = time.time
time.time = lambda: real() + ahead
from azureml_jobs.storage.base import LeaseLost
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.lease_wait import waited_for
store = FolderStore(sys.argv[1])
lease = waited_for(store, "live", sys.argv[2], 1.0, 3.0)
print("held" if lease else "not", flush=True)
while lease:
    try:
        lease = store.renew(lease, 1.0)
        store.replace("pointer", sys.argv[2].encode(), under=lease)
    except LeaseLost as lost:
        print(lost, flush=True)
        break
    time.sleep(0.1)
"""
STOPS_WITHIN_A_WRITE = """
import os, signal, sys
from azureml_jobs.storage import folder_store
from azureml_jobs.storage.folder_store import FolderStore
store = FolderStore(sys.argv[1])
lease = store.acquire("live", "stands", 1.0)
put_over = folder_store.put_over
def stopping(temporary, path):
    folder_store.put_over = put_over
    os.kill(os.getpid(), signal.SIGSTOP)
    put_over(temporary, path)
folder_store.put_over = stopping
store.replace("pointer", b"stands", under=lease)
print("written", flush=True)
sys.stdin.read()
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that want the lease and keep it; all are ended with the test."""
    with ExitStack() as running:

        def start(owner: str, ahead: float = 0.0) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", HOLDER, str(tmp_path), owner, str(ahead)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield start


def stand_still(holder: subprocess.Popen[str], folder: Path) -> None:
    """Stop a holder between two writes: one that stops within a write keeps the folder's lock, and
    nobody writes there until it goes on or is killed.
    """
    while True:
        holder.send_signal(signal.SIGSTOP)
        # The signal has arrived when the process is shown as stopped.
        until(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED)
        lock = try_lock(folder / ".lock")
        if lock is not None:
            lock.release()
            return
        holder.send_signal(signal.SIGCONT)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def taken(folder: Path, owner: str = "taker") -> tuple[Lease | None, float]:
    began = time.monotonic()
    return waited_for(FolderStore(folder), "live", owner, SECONDS, 3.0), time.monotonic() - began


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(
    tmp_path: Path, start: Start
) -> None:
    holder = start("holder")
    assert line(holder) == "held"
    holder.kill()
    holder.wait()
    assert FolderStore(tmp_path).acquire("live", "next", 3600) is not None, "at the first look"


def test_one_that_stood_still_for_longer_than_its_lease_is_followed_and_writes_no_more(
    tmp_path: Path, start: Start
) -> None:
    holder = start("holder")
    assert line(holder) == "held"
    until(lambda: (tmp_path / "pointer").exists())
    stand_still(holder, tmp_path)
    lease, seconds = taken(tmp_path)
    assert lease is not None and lease.epoch == 2 and seconds >= SECONDS * 0.9
    store = FolderStore(tmp_path)
    store.replace("pointer", b"taker", under=lease)
    holder.send_signal(signal.SIGCONT)
    assert "MDW-516" in line(holder)
    assert store.read("pointer") == b"taker"


def test_one_that_stands_still_within_a_write_is_named_and_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it goes on nobody may write: it would finish its write over theirs."""
    monkeypatch.setattr(locks, "TOLD_SECONDS", 0.2)
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.5)
    command = [sys.executable, "-c", STOPS_WITHIN_A_WRITE, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as holder:
        try:
            os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
            with pytest.raises(CheckpointError, match=rf"MDW-535.*process {holder.pid} of "):
                taken(tmp_path)
            assert f"locked by process {holder.pid} of " in caplog.text
            holder.send_signal(signal.SIGCONT)
            assert line(holder) == "written"
            lease, _ = taken(tmp_path)
            assert lease is not None and lease.epoch == 2
            assert FolderStore(tmp_path).read("pointer") == b"stands"
        finally:
            holder.kill()


def test_one_that_stood_still_for_less_keeps_it(tmp_path: Path, start: Start) -> None:
    holder = start("holder")
    assert line(holder) == "held"
    stand_still(holder, tmp_path)
    store = FolderStore(tmp_path)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS * 0.5:
        assert store.acquire("live", "taker", SECONDS) is None
        time.sleep(0.1)
    holder.send_signal(signal.SIGCONT)
    assert taken(tmp_path)[0] is None, "it lives"


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_clock_ten_minutes_off_takes_no_live_lease_and_leaves_no_dead_one(
    tmp_path: Path, start: Start, ahead: float
) -> None:
    holder = start("holder", ahead)
    assert line(holder) == "held"
    assert taken(tmp_path)[0] is None
    stand_still(holder, tmp_path)
    assert taken(tmp_path)[0] is not None


def test_of_two_that_wait_for_a_dead_one_s_lease_one_gets_it(tmp_path: Path, start: Start) -> None:
    holder = start("holder")
    assert line(holder) == "held"
    stand_still(holder, tmp_path)
    both = [start("one"), start("two", 600.0)]
    assert sorted(line(process) for process in both) == ["held", "not"]

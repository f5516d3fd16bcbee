"""One holder at a time, with locks of the file system and without."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.errors import CheckpointError
from conf.files import locks
from conf.files.faults import FileFault
from conf.files.locks import HELD, locked, try_lock
from conf.process_birth import this_process

ROOT = Path(__file__).parents[3]
HOLD = """
import fcntl, sys, time
if sys.argv[2] == "file":
    def none(*args): raise OSError(38, "Function not implemented")
    fcntl.flock = none
from pathlib import Path
from conf.files.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print("held" if lock else "not", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["flock", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks, and one without."""
    if request.param == "file":

        def none(*args: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", none)
    return str(request.param)


@pytest.fixture
def holder(tmp_path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock"), kind]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_keeps_it_until_it_ends_however_it_ends(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    path = tmp_path / ".lock"
    assert try_lock(path) is None
    holder.kill()
    holder.wait()
    lock = try_lock(path)
    assert lock is not None
    assert try_lock(path) is None
    lock.release()
    lock.release()
    again = try_lock(path)
    assert again is not None
    again.release()
    assert not list(tmp_path.glob(f"*{HELD}*"))


def test_threads_of_one_process_are_told_apart_and_one_may_take_it_twice(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / ".lock"
    inside = threading.Event()
    with locked(path), locked(path):

        def work() -> None:
            with locked(path):
                inside.set()

        other = threading.Thread(target=work)
        other.start()
        assert not inside.wait(0.1)
    other.join(10)
    assert inside.is_set()


def test_where_the_disk_fails_that_is_said_and_not_that_somebody_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(FileFault, match="MDW-515: Can't lock"):
        try_lock(tmp_path / ".lock")
    with pytest.raises(FileFault, match="MDW-515: Can't lock"), locked(tmp_path / ".lock"):
        raise AssertionError("it is not held")


def test_a_holder_that_can_not_be_judged_is_named_and_never_pushed_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    file = tmp_path / f".lock{HELD}"
    file.write_text("another-boot:4026531836:7:1234 machine-b")
    with (
        pytest.raises(CheckpointError, match=r"MDW-535.*a process of machine-b by .*delete"),
        locked(tmp_path / ".lock"),
    ):
        raise AssertionError("it is not held")
    assert file.exists()


def test_a_file_that_says_nothing_is_taken_only_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / f".lock{HELD}").touch()
    assert try_lock(tmp_path / ".lock") is None
    monkeypatch.setattr(locks, "HALF_WRITTEN_SECONDS", 0.0)
    lock = try_lock(tmp_path / ".lock")
    assert lock is not None
    assert this_process() in (tmp_path / f".lock{HELD}").read_text()
    lock.release()


HOLD_AND_STOP = """
import fcntl, os, signal, sys
if sys.argv[2] == "file":
    def none(*args): raise OSError(38, "Function not implemented")
    fcntl.flock = none
from pathlib import Path
from conf.files.locks import locked
with locked(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGSTOP)
print("went on", flush=True)
"""


@pytest.fixture
def stopped(tmp_path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which was stopped while it held the lock."""
    command = [sys.executable, "-c", HOLD_AND_STOP, str(tmp_path / ".lock"), kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            yield process
        finally:
            process.kill()


def test_a_holder_that_is_stopped_is_named_after_a_while_and_waited_for_no_longer_than_declared(
    tmp_path: Path,
    stopped: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(locks, "TOLD_SECONDS", 0.1)
    path = tmp_path / ".lock"
    named = rf"process {stopped.pid} of \S+ since \S+ by what its file says, which is stopped"
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(CheckpointError, match=rf"MDW-535: .*\.lock has been locked .* by {named}"),
        locked(path, 0.3),
    ):
        raise AssertionError("it is not held")
    (told,) = caplog.messages
    assert f"by process {stopped.pid} of " in told
    stopped.send_signal(signal.SIGCONT)
    assert stopped.stdout is not None and stopped.stdout.readline() == "went on\n"
    with locked(path):
        assert str(os.getpid()) in (path.read_text() or (tmp_path / f".lock{HELD}").read_text())


def test_one_that_is_killed_while_it_is_waited_for_is_followed(
    tmp_path: Path, stopped: subprocess.Popen[str]
) -> None:
    threading.Timer(0.2, stopped.kill).start()
    with locked(tmp_path / ".lock"):
        stopped.wait()


def test_another_thread_that_does_not_let_go_is_named_too(tmp_path: Path, kind: str) -> None:
    inside = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with locked(tmp_path / ".lock"):
            inside.set()
            done.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    with (
        pytest.raises(CheckpointError, match=r"MDW-535.*another thread of this process since 2"),
        locked(tmp_path / ".lock", 0.1),
    ):
        raise AssertionError("it is not held")
    done.set()
    other.join()
    with locked(tmp_path / ".lock", 0.1):
        pass


def test_a_pause_of_the_one_that_waits_costs_the_holder_nothing(
    tmp_path: Path,
) -> None:
    seconds = iter(range(0, 3000, 30))
    wait = locks._Wait(tmp_path / ".lock", 60.0, lambda: float(next(seconds)))
    for _ in range(61):
        wait.look()
    with pytest.raises(CheckpointError, match=r"MDW-535.*for 61 s"):
        wait.look()


def test_where_the_disk_is_full_the_lock_is_held_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / ".lock"
    path.write_text("who was there before")
    monkeypatch.setattr(os, "pwrite", full)
    with locked(path):
        assert path.read_text() == ""


def test_a_child_that_was_forked_meanwhile_does_not_keep_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".lock"
    reader, writer = os.pipe()
    with locked(path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with locked(path, 0.1):
            pass
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def test_a_fork_does_not_take_its_parent_s_lock_for_its_own(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            found = locks._of_this_process(path)
            os.write(writer, b"1" if found.depth == 0 else b"0")
            os._exit(0)
        os.close(writer)
        assert os.read(reader, 1) == b"1"
        os.waitpid(child, 0)
        os.close(reader)

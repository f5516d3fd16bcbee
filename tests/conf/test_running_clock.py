"""The clock of a process stands still while the process does, and goes on for everything else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from conf.running_clock import PAUSE_SECONDS, RunningClock, since_boot


class System:
    """The system's time, set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_does_not_count_and_everything_shorter_does() -> None:
    system = System()
    clock = RunningClock(system)
    with clock.watched():
        started = clock()
        system.now += PAUSE_SECONDS - 0.1
        assert clock() == pytest.approx(started + PAUSE_SECONDS - 0.1)
        assert clock.resumed < started, "it has not stood still yet"
        system.now += 62.0
        before = started + PAUSE_SECONDS - 0.1
        assert clock() == pytest.approx(before)
        assert clock.resumed == pytest.approx(before)
        system.now += 1.0
        assert clock() == pytest.approx(before + 1.0)


def test_a_pause_is_told(caplog: pytest.LogCaptureFixture) -> None:
    system = System()
    clock = RunningClock(system)
    with clock.watched():
        system.now += 62.0
        clock()
    assert caplog.messages == ["this process stood still for 62 s, which count against nobody"]


def test_unwatched_a_long_time_between_two_looks_is_no_pause() -> None:
    system = System()
    clock = RunningClock(system)
    started = clock()
    system.now += 62.0
    assert clock() == pytest.approx(started + 62.0)
    with clock.watched():
        assert clock() == pytest.approx(started + 62.0), "nor the time before it was watched"


def test_it_is_never_set_back_and_no_step_of_the_wall_clock_moves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = RunningClock()
    with clock.watched():
        first = clock()
        for wall in (0.0, 4e9):
            monkeypatch.setattr(time, "time", lambda wall=wall: wall)
            assert 0 <= clock() - first < PAUSE_SECONDS


def test_without_a_clock_of_the_boot_the_monotonic_one_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert abs(since_boot() - time.monotonic()) < 1.0


PAUSED = """
import sys, time
from conf import running_clock
running_clock.PAUSE_SECONDS = 1.0
running_clock.LOOK_SECONDS = 0.1
clock = running_clock.RunningClock()
with clock.watched():
    started = clock()
    print("up", flush=True)
    sys.stdin.readline()
    print(clock() - started)
"""


def test_a_process_that_was_stopped_counts_only_while_it_ran() -> None:
    command = [sys.executable, "-c", PAUSED]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        stopped = since_boot()
        while since_boot() - stopped < 3.0:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGCONT)
        said = process.communicate("\n", timeout=30)[0]
    assert float(said) < 2.0

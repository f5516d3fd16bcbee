"""A process has certainly ended, or nothing is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from conf import process_birth
from conf.process_birth import has_ended, this_process

ENDED = "import os; from conf.process_birth import this_process; print(this_process())"


def test_a_process_that_has_ended_is_known_to_have() -> None:
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, check=True)
    assert has_ended(done.stdout.strip())


def test_one_that_runs_or_stands_still_has_not_ended() -> None:
    command = [sys.executable, "-c", f"{ENDED}\nimport sys; sys.stdout.flush(); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not has_ended(name)
        process.send_signal(signal.SIGSTOP)
        assert not has_ended(name)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(name), "a zombie"


def test_a_number_that_another_process_has_by_now_is_not_the_one() -> None:
    head, _, ticks = this_process().rpartition(":")
    assert not has_ended(this_process())
    assert has_ended(f"{head}:{int(ticks) + 1}")


@pytest.mark.parametrize("at", [0, 1])
def test_of_another_boot_or_container_nothing_is_known(at: int) -> None:
    parts = this_process().split(":")
    parts[at] = "another"
    parts[2] = "99999999"
    assert not has_ended(":".join(parts))


def test_what_is_no_name_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(has_ended(name) for name in ("", ":", "a:b:c:d", "::::", "x", "\x00:1:2:3"))
    monkeypatch.setattr(process_birth, "boot", lambda: None)
    assert not has_ended("None:None:99999999:1")


def test_a_process_that_this_user_may_not_see_has_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refused)
    head, _, ticks = this_process().rpartition(":")
    assert not has_ended(f"{head}:{int(ticks) + 1}")

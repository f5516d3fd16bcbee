"""The line by which a lock's holder is known, whoever wrote it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from conf.files.lock_holders import LARGEST, Holder, own_line
from conf.process_birth import birth, this_process

ELSEWHERE = "another-boot:4026531836:7:1234"


def test_a_process_knows_its_own_line_for_another_thread_of_it() -> None:
    holder = Holder.of(own_line())
    assert (holder.process, holder.pid) == (this_process(), str(os.getpid()))
    assert holder.in_words().startswith("another thread of this process since 2")


def test_a_holder_of_another_machine_is_told_by_what_its_file_says() -> None:
    holder = Holder.of(f"{ELSEWHERE} machine-b 7 2026-01-02T03:04:05Z".encode())
    assert holder.in_words() == (
        "process 7 of machine-b since 2026-01-02T03:04:05Z by what its file says"
    )
    assert "kill" not in holder.remedy(), "it is not a number of this machine"


def test_a_stopped_one_is_told_with_how_it_goes_on() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            born = birth(process.pid)
            assert born is not None
            name = f"{this_process().rsplit(':', 2)[0]}:{process.pid}:{born[0]}"
            # The number beside the name is anybody's word.
            holder = Holder.of(f"{name} here 1 now".encode())
            assert holder.in_words().endswith("which is stopped")
            assert f"kill -CONT {process.pid}" in holder.remedy()
            other = Holder.of(f"{name}9 here {process.pid} now".encode())
            assert "kill" not in other.remedy(), "another process has that number by now"
        finally:
            process.kill()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"\x00" * 5000,
        b"\xff\xfe\x1b[2J\x1b[31m",
        b"a:b:c:d " + b"h" * 5000,
        b"x \x1b]0;title\x07 12;rm\x1b -rf",
        f"{ELSEWHERE} \u202eevil \uff17 x\ny".encode(),
        b":" * 5000,
        b"boot:1:" + b"9" * 300 + b":1 host 1 now",
    ],
)
def test_whatever_stands_there_is_short_and_has_no_control_characters(line: bytes) -> None:
    holder = Holder.of(line)
    said = f"{holder.in_words()} {holder.remedy()}"
    assert said.isprintable() and len(said) < LARGEST
    assert "kill -" not in said


def test_the_line_of_one_that_has_ended_names_nobody() -> None:
    gone = this_process().rpartition(":")[0] + ":1 here 5 now"
    assert Holder.of(gone.encode()).in_words() == "a process that its file does not name"

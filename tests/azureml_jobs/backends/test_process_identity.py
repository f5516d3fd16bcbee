"""A process is what it is whatever the clock says, and another one of its pid is another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from azureml_jobs.backends.process_identity import identity_of, process_of
from conf import process_birth


def test_a_process_is_found_again_by_its_identity_after_json() -> None:
    found = process_of(json.loads(json.dumps(identity_of(os.getpid()))))
    assert found is not None and found.pid == os.getpid()


def test_another_process_of_the_pid_or_another_boot_is_not_it() -> None:
    pid, birth = identity_of(os.getpid())
    boot, _, ticks = str(birth).partition(":")
    assert process_of([pid, f"{boot}:{int(ticks) - 1}"]) is None
    assert process_of([pid, f"another-boot:{ticks}"]) is None


def test_one_that_has_ended_is_gone_also_while_nobody_has_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identity_of(child.pid)
    assert process_of(identity) is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_of(identity) is None, "a zombie"
    assert identity_of(child.pid) == identity, "it may end before it is noted"
    child.communicate()
    assert process_of(identity) is None
    with pytest.raises(psutil.NoSuchProcess):
        identity_of(child.pid)


@pytest.mark.parametrize("damaged", [[], [1], ["x", "y"], [[], ""], {"pid": 1}, "text"])
def test_what_is_no_identity_is_refused_and_none_is_no_process(damaged: object) -> None:
    assert process_of(None) is None
    with pytest.raises(ValueError, match=r"identity|pid|int"):
        process_of(damaged)


def test_a_system_that_names_no_boot_goes_by_the_time_of_birth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process_birth, "BOOT_ID", tmp_path / "none")
    identity = identity_of(os.getpid())
    assert process_of(identity) is not None
    assert process_of([os.getpid(), "1.0"]) is None

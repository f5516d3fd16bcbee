"""A process that starts again in its own place: the same arguments, not without end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.node.start_again import MOST, VARIABLE, WINDOW, noted

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, sys
from client.node.start_again import start_again
print(os.getpid(), sys.argv[1:], flush=True)
start_again()
sys.exit(21)
"""


def test_it_is_noted_each_time_and_given_up_after_too_many_of_late() -> None:
    note = ""
    for n in range(MOST):
        found = noted(note, 1000.0 + n)
        assert found is not None
        note = found
    assert noted(note, 1000.0 + MOST) is None
    assert noted(note, 1000.0 + WINDOW) == " ".join(f"{1000.0 + n:.1f}" for n in range(1, 5)) + (
        f" {1000.0 + WINDOW:.1f}"
    )


def test_starts_that_follow_each_other_at_once_all_count() -> None:
    note: str | None = ""
    for n in range(MOST):
        note = noted(note or "", 50.06 + n / 1000)
        assert note is not None and len(note.split()) == n + 1
    assert noted(note, 50.07) is None


@pytest.mark.parametrize("text", ["", "yesterday", "1e9 2e9", "-5"])
def test_what_is_no_note_of_this_machine_s_clock_counts_for_nothing(text: str) -> None:
    assert noted(text, 50.0) == "50.0"


def test_a_process_is_replaced_by_itself_until_it_is_given_up(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), "--silo", "north"],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + MOST and len(set(lines)) == 1, "one process, with its arguments"
    assert lines[0].endswith("['--silo', 'north']") and done.returncode == 21
    assert VARIABLE not in done.stdout

"""Each step of a job's start is noted once, in a line that others find."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conf import startup_log

ROOT = Path(__file__).parents[2]


def test_a_step_is_noted_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_log, "_noted", set())
    monkeypatch.setattr(startup_log, "BEGUN", startup_log.BEGUN - 3600)
    with caplog.at_level(logging.INFO):
        for what in ("import", "first round", "first round"):
            startup_log.note(what)
    (first, second) = [record.getMessage() for record in caplog.records]
    assert first.startswith("start-up: import ") and second.startswith("start-up: first round ")
    assert float(re.findall(r"([\d.]+) s$", first)[0]) >= 3600


def test_the_command_line_counts_from_before_anything_heavy() -> None:
    code = (
        "import azureml_jobs.cli.main, sys;"
        "sys.exit('conf.startup_log' not in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0

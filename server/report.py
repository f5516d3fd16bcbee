"""`report.html`: one self-contained page that says what a run was worth."""

from __future__ import annotations

from pathlib import Path

from server.atomic import write_atomic
from server.result import RunResult


def write_report(folder: Path) -> Path:
    """Write a run's report from its `result.json` and return its path."""
    result = RunResult.read(folder)
    path = folder / "report.html"
    write_atomic(path, f"<!doctype html><title>{result.task}</title><p>{len(result.rounds)} rounds</p>")
    return path

"""From a CSV of one's own to a report, predictions and a model for elsewhere: five commands, no code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.test_docs_your_own_task import CONSTRAINTS
from tests.typed_pages import ROOT, read_on, typed

PAGE = "docs/five-commands.md"


def check(folder: Path) -> None:
    """Check what a reader would look at afterwards."""
    result = json.loads((folder / "outputs/first/result.json").read_text())
    assert result["status"] == "finished"
    assert result["baseline"]["centralised"]["union"]["auroc"] > 0.7
    assert result["test"]["chosen"]["points"].keys() == {"ill"}
    report = (folder / "outputs/first/report.html").read_text()
    for heading in ("How it decides", "Who gained", "What the federation was worth"):
        assert heading in report
    lines = (folder / "predictions.csv").read_text().splitlines()
    assert lines[0] == "place,prediction,p_well,p_ill" and len(lines) == 401
    exported = folder / "outputs/first/export/safetensors"
    assert sorted(path.name for path in exported.iterdir()) == [
        "contract.json",
        "model.py",
        "model.safetensors",
    ]


def test_there_are_five() -> None:
    (block,) = (ROOT / PAGE).read_text().split("<!-- run: processes -->")[1:]
    assert block.split("```")[1].count("\nmeadow ") == 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_five_commands_as_they_are_written(tmp_path: Path) -> None:
    read_on(PAGE, tmp_path, typed, processes=True)
    check(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_five_commands_in_an_empty_environment(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    # A copy: the build leaves folders beside the code.
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "outputs", "mlruns"))
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-c", str(tree / CONSTRAINTS), str(tree)], check=True)
    folder = tmp_path / "patients"
    folder.mkdir()
    read_on(PAGE, folder, partial(typed, programs=environment / "bin"), processes=True)
    check(folder)

"""The tutorial's commands do what it says; once a night in an empty environment, with the minutes that it took."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from azureml_jobs.cli.new_files import TASK, filled
from tests.typed_pages import ROOT, called, read_on, typed

CONSTRAINTS = "azureml_jobs/environments/silo/constraints.txt"
PAGE = "docs/your-own-task.md"


def check(folder: Path) -> None:
    """Check what a reader would look at afterwards."""
    for run in ("small", "wide", "recall", "rehearsed"):
        assert (folder / "outputs" / run / "report.html").is_file()
    assert "recall" in (folder / "outputs" / "recall" / "result.json").read_text()


def test_the_tutorials_commands_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read_on(PAGE, tmp_path, called)
    check(tmp_path)


def test_the_task_that_is_shown_is_the_one_that_is_written() -> None:
    written = filled(TASK, "wine")
    shown = (ROOT / PAGE).read_text().split("```python\nclass Wine")[1].split("```")[0]
    for line in f"class Wine{shown}".splitlines():
        assert line in written.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_tutorial_in_an_empty_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    # A copy: the build leaves folders beside the code.
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "outputs", "mlruns"))
    python = environment / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-c", str(tree / CONSTRAINTS), str(tree)], check=True)
    installed = time.monotonic()
    folder = tmp_path / "wine"
    folder.mkdir()
    read_on(PAGE, folder, partial(typed, programs=environment / "bin"), processes=True)
    check(folder)
    done = time.monotonic()
    with capsys.disabled():
        minutes = (done - started) / 60
        print(
            f"\nthe tutorial took {minutes:.1f} minutes, {(done - installed) / 60:.1f} without the installation"
        )

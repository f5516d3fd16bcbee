"""A reader who types what the README says gets what it says: each marked block is run, in order, in one folder.

`<!-- run -->` before a block runs it; `<!-- file: NAME -->` writes it to a file first. The quick test calls the command
line in this process, on the pool and with little data; the nightly one types the commands as they are written.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (run|file: \S+) -->\n```(\w+)\n(.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent
QUICK = ["simulation=pool", "simulation.workers=0"]


def blocks() -> list[tuple[str, str, str]]:
    """Return each marked block of the README: its marker, language and text."""
    return BLOCK.findall((ROOT / "README.md").read_text())


def typed(arguments: list[str], folder: Path) -> str:
    """Run one command in `folder` with this environment's programs first; its output explains a failure."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, (
        f"{shlex.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def called(arguments: list[str], folder: Path) -> str:
    """Do the same in this process, which saves the imports of each command; the current folder is `folder`."""
    program, *rest = shortened(arguments)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if program == "meadow":
            assert main(rest) == 0, f"{shlex.join(arguments)}\n{printed.getvalue()[-3000:]}"
        else:
            runpy.run_path(rest[0], run_name="__main__")
    return printed.getvalue()


def read_on(folder: Path, run: Callable[[list[str], Path], str]) -> list[str]:
    """Do what every marked block says, and return what each command printed."""
    printed = []
    for marker, language, text in blocks():
        name = marker.removeprefix("file: ") if marker.startswith("file: ") else "block.py"
        if language == "python":
            (folder / name).write_text(text)
        if marker == "run" and language == "python":
            printed.append(run([sys.executable, str(folder / name)], folder))
        elif marker == "run":
            commands = [shlex.split(line, comments=True) for line in text.splitlines()]
            printed += [run(command, folder) for command in commands if command]
    return printed


def shortened(command: list[str]) -> list[str]:
    """Return a simulation on the quickest engine with small data; any other command as it is."""
    if command[:2] != ["meadow", "simulate"] or "--help" in command:
        return command
    resumed = any(argument.startswith("run.resume=") for argument in command)
    return [*command, *QUICK, *([] if resumed else ["data.examples=300"])]


def check(folder: Path, printed: list[str]) -> None:
    """Check what a reader would look at afterwards."""
    assert "first" in os.listdir(folder / "outputs")
    for made in ("result.json", "report.html", "model/model.safetensors"):
        assert (folder / "outputs" / "first" / made).is_file()
    assert len(list((folder / "outputs").glob("sweep-*/*/result.json"))) == 2
    assert any("accuracy" in text for text in printed)


def test_the_readmes_commands_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(tmp_path, read_on(tmp_path, called))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readmes_commands_as_they_are_written(tmp_path: Path) -> None:
    check(tmp_path, read_on(tmp_path, typed))


def test_the_first_commands_are_at_the_top() -> None:
    first = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == [
        "make simulate",
        "make simulate ARGS=simulation=ray",
        "make test",
    ]
    assert {"simulate:", "test:"} <= set(
        re.findall(r"^[a-z-]+:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )

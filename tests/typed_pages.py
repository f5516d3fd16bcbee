"""Pages whose marked blocks are run in order, in one folder, as a reader would type them.

`<!-- run -->` before a block runs it, `<!-- run: processes -->` only where commands are typed as they
are; `<!-- file: NAME -->` writes it to a file first. `called` runs a command in this process, which
is quick; `typed` runs it as it is written.
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
from collections.abc import Callable, Sequence
from pathlib import Path

from azureml_jobs.cli.main import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (run|run: processes|file: \S+) -->\n```(\w+)\n(.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent
QUICK = ["simulation=pool", "simulation.workers=0"]

Run = Callable[[list[str], Path], str]


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return each marked block of a page: its marker, language and text."""
    return BLOCK.findall((ROOT / page).read_text())


def typed(arguments: list[str], folder: Path, programs: Path = BIN) -> str:
    """Run one command in `folder` with an environment's programs first; its output explains a failure."""
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
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


def read_on(page: str, folder: Path, run: Run, *, processes: bool = False) -> list[str]:
    """Do what every marked block of a page says, and return what each command printed."""
    printed = []
    for marker, language, text in blocks(page):
        if marker.startswith("file: "):
            file = folder / marker.removeprefix("file: ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif marker == "run: processes" and not processes:
            continue
        elif language == "python":
            (folder / "block.py").write_text(text)
            printed.append(run(["python", str(folder / "block.py")], folder))
        else:
            printed += [run(command, folder) for command in _commands(text)]
    return printed


def _commands(text: str) -> Sequence[list[str]]:
    commands = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [command for command in commands if command]


def shortened(command: list[str]) -> list[str]:
    """Return a simulation on the quickest engine with small data; any other command as it is."""
    if command[:2] != ["meadow", "simulate"] or "--help" in command:
        return command
    resumed = any(argument.startswith("run.resume=") for argument in command)
    return [*command, *QUICK, *([] if resumed else ["data.examples=300"])]

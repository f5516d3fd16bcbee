"""Commands in strange surroundings, each in a fork of one process that has imported everything: a run
costs its own time and not that of an import.

    python -m tests.faults.warm_commands    # a line of JSON in for each command, one out for its end
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SMALL = [
    *("task=digits", "data.examples=120", "federation.size=2", "run.rounds=1", "simulation=pool"),
    *("simulation.workers=0", "trainer.epochs=1", "trainer.threads=1"),
]
CLOSED = "closed"
"""As standard output: a pipe whose reader has gone."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


class Warm:
    """The process that is forked."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._count = 0

    def run(
        self,
        *argv: str,
        cwd: str | Path,
        env: Mapping[str, str | None] | None = None,
        **around: Any,
    ) -> Done:
        """Run `meadow` with arguments; `env` changes the environment (None takes a variable out).

        `around`: `uid`, `umask`, `stdin` ("closed"), `stdout` (`CLOSED`, "none").
        """
        self._count += 1
        files = [str(self._folder / f"{self._count}.{name}") for name in ("out", "err")]
        asked = {"argv": argv, "cwd": os.fsencode(cwd).hex(), "env": env or {}, "files": files}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**asked, **around}) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        out, err = (Path(file).read_text(errors="replace") for file in files)
        return Done(status, out, err)


@contextmanager
def warm_commands(folder: Path) -> Iterator[Warm]:
    """Start the process; it is ended with the block."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.faults.warm_commands", str(folder / "first")]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready == "ready\n", ready
            yield Warm(process, folder)
        finally:
            process.kill()


def _child(asked: Mapping[str, Any]) -> int:
    """Put this process into the surroundings, and run the command."""
    signal.alarm(120)
    for name, value in asked["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for number, file in zip((1, 2), asked["files"], strict=True):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
        os.dup2(handle, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if asked.get("stdin") == "closed":
        os.close(0)
    if asked.get("stdout") == CLOSED:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    os.umask(asked.get("umask", 0o022))
    if (uid := asked.get("uid")) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir(bytes.fromhex(asked["cwd"]))
    import tempfile

    from azureml_jobs.cli.main import main

    tempfile.tempdir = None
    sys.stdin = open(0, closefd=False) if asked.get("stdin") != "closed" else None  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if asked.get("stdout") == "none":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]  # as Python itself leaves it then
    status = main(asked["argv"])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # What the interpreter makes of it at its end.
        status = status or 120
    return status


def serve(first: str) -> None:
    """Run one command here, so that all is imported, then fork for each line of the input."""
    from server.simulation import simulate

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    simulate([*SMALL, f"run.output={first}"])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = _child(json.loads(line))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(ended), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])

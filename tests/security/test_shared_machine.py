"""A machine that others use as well: no door is open to them, and what a run leaves is not theirs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
MARK = "MEADOW_TEST_COMMAND"
"""Environment variable of a command that all that it starts inherits, detached processes too."""
SMALL = [
    "task=digits",
    "data.examples=60",
    "federation.size=2",
    "run.rounds=1",
    "run.name=r",
    "run.output=out",
    "tracking=local",
]
LOOPBACK = ("127.", "::1", "::ffff:127.")
COMMANDS = {
    "simulate": ["simulate", *SMALL],
    "launch all": ["launch", "all", "backend=local", *SMALL],
    "evaluate": ["evaluate", "run=out/r"],
    "report": ["report", "run=out/r"],
    "runs": ["runs", "run.output=out"],
}


def listeners(mark: str) -> set[str]:
    """Return the addresses at which a command and all that it started listen."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) != mark:
                continue
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        found |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return found


def listened_at(arguments: list[str], folder: Path) -> set[str]:
    """Run a command to its end, as a user whose files are everybody's; return where it listened."""
    mark = uuid.uuid4().hex
    found: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-m", "azureml_jobs.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        umask=0,
    ) as command:
        while True:
            found |= listeners(mark)
            try:
                said, _ = command.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                continue
    assert command.returncode == 0, said.decode()
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, set[str]], Path]]:
    """Where each command listened, and the folder that they ran in."""
    folder = tmp_path_factory.mktemp("shared")
    found = {}
    for name, arguments in COMMANDS.items():
        if name == "launch all":
            arguments = [*arguments, "run.output=launched"]
        found[name] = listened_at(arguments, folder)
    yield found, folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_listens_on_this_machine_alone(
    command: str, seen: tuple[dict[str, set[str]], Path]
) -> None:
    addresses = seen[0][command]
    assert [one for one in addresses if not one.startswith(LOOPBACK)] == []
    # The test looks at what there is: an orchestrator does listen.
    assert bool(addresses) == (command == "launch all")


@pytest.mark.parametrize("output", ["out", "launched"])
def test_what_a_run_leaves_is_its_users_alone_whatever_the_umask(
    output: str, seen: tuple[dict[str, set[str]], Path]
) -> None:
    run = seen[1] / output / "r"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"model.safetensors", "result.json", "report.html"} <= {path.name for path in files}
    everybodys = [str(path) for path in files if path.stat().st_mode & 0o077]
    assert everybodys == []

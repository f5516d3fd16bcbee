"""What every test stands on: one thread, no telemetry, a Flower home of its own, and no process left behind."""

from __future__ import annotations

import atexit
import copy
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from conf.telemetry import OFF

SESSION = "MEADOW_TEST_SESSION"
"""Environment variable that every process started by this session inherits, detached ones included."""

# Read by the libraries at import or handed to their processes, so set before anything is imported.
FLOWER_HOME = Path(tempfile.mkdtemp(prefix="meadow-test-flwr-"))
atexit.register(shutil.rmtree, FLOWER_HOME, ignore_errors=True)
os.environ.update(
    {
        SESSION: uuid.uuid4().hex,
        "FLWR_HOME": str(FLOWER_HOME),
        **OFF,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }
)

import psutil  # noqa: E402  # after the environment
import pytest  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from conf import compose as compose_module  # noqa: E402

# The standard library's own helpers of a pool live as long as the interpreter that started them.
STANDARD_LIBRARY = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Let Hydra compose the same overrides once a session: a tenth of a second each, thousands of times.

    What Meadow does with the result (federation files, types, rules) is done each time; and what
    is read from a folder of the test's own (`hydra.searchpath`) is read each time.
    """
    known: dict[tuple[str, ...], Any] = {}
    composed = vars(compose_module)["hydra_compose"]

    def remembered(name: str, overrides: list[str], return_hydra_config: bool) -> Any:
        key = tuple(overrides)
        if any("searchpath" in one for one in overrides):
            return composed(name, overrides, return_hydra_config=return_hydra_config)
        if key not in known:
            known[key] = composed(name, overrides, return_hydra_config=return_hydra_config)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose_module, "hydra_compose", remembered)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures of reports empty: more than half the time of a short run.

    For tests of something else; those in tests/server/report draw, and those of whole programs.
    """
    from matplotlib.figure import Figure

    def empty(_: Figure, file: TextIO, **__: object) -> None:
        file.write('<svg width="1pt" height="1pt"></svg>')

    monkeypatch.setattr(Figure, "savefig", empty)


@pytest.fixture
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the three ids that Flower's `Message` reads when one is made."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def one_ray_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the workers of a parallel session start Ray one after another.

    Ray gives its raylet 30 seconds, which no setting changes and two starts on two cores may need.
    """
    with open(tmp_path_factory.getbasetemp().parent / "ray.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # The kernel lets go of it with the file. Not inheritable: no process of Ray holds it.
        yield


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail the session when a process that a test started is still alive at its end."""
    yield
    _, alive = psutil.wait_procs(started_here(), timeout=10)
    lines = [describe(process) for process in alive]
    for process in alive:
        process.kill()
    assert not lines, "left running by a test:\n" + "\n".join(lines)


def started_here() -> list[psutil.Process]:
    """Return the processes that carry this session's mark, without this one and the standard library's."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = (
                process.pid != os.getpid() and process.environ().get(SESSION) == os.environ[SESSION]
            )
            if ours and not any(name in " ".join(process.cmdline()) for name in STANDARD_LIBRARY):
                found.append(process)
        except psutil.Error:
            continue
    return found


def describe(process: psutil.Process) -> str:
    """Return a process as one line."""
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)

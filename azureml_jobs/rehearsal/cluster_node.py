"""A node of a cluster: a disk that is gone with it, and the processes of one job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 20.0
"""The time between SIGTERM and SIGKILL."""


class End(Enum):
    """Why no process runs any more."""

    ITSELF = "itself"
    CANCELLED = "cancelled"
    LATE = "late"
    PREEMPTED = "preempted"


class Node:
    """The machine of a job: all its ranks run here, also those of several nodes.

    `work` is where a job starts, `home` its home folder; nothing of either is there after `wipe`.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self.work = folder / "work"
        self.home = folder / "home"
        for path in (self.work / "outputs", self.home, logs):
            path.mkdir(parents=True, exist_ok=True)
        # Beside the system's own: a socket below the job's folder would have too long a name.
        self._temporary = Path(tempfile.mkdtemp(prefix="meadow-node-"))
        self._taken = threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []

    def folder(self, *names: str) -> Path:
        """Return the path of a folder on this node's disk."""
        return self._folder.joinpath(*names)

    def start(
        self, line: str, environments: Sequence[dict[str, str]], network: Sequence[str] = ()
    ) -> None:
        """Start a command once for each environment; what it says goes into the job's logs.

        `network` is what stands before it, so that it runs in a network of its own.
        """
        own = {"HOME": str(self.home), "TMPDIR": str(self._temporary)}
        for rank, environment in enumerate(environments):
            alone = len(environments) == 1
            name = "std_log.txt" if alone else f"std_log_process_{rank}.txt"
            # Appended to: a job that is started again on another node has one log.
            with (self._logs / name).open("ab") as log:
                process = subprocess.Popen(
                    [*network, "bash", "-c", line],
                    cwd=self.work,
                    env={**environment, **own},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._processes.append(process)

    def wait(self, cancelled: Callable[[], bool], limit: float | None) -> tuple[End, int]:
        """Wait until every process has ended, and end them where need be.

        Returns why, and the worst status.
        """
        deadline = time.monotonic() + limit if limit else None
        end = End.ITSELF
        while any(process.poll() is None for process in self._processes):
            if self._taken.is_set():
                end = End.PREEMPTED
                self._signal(signal.SIGKILL)
            elif cancelled():
                end = End.CANCELLED
                self._end()
            elif deadline is not None and time.monotonic() > deadline:
                end = End.LATE
                self._end()
            time.sleep(POLL_SECONDS)
        # What a command left running in its group ends with the container on Azure.
        self._signal(signal.SIGKILL)
        worst = max((process.returncode for process in self._processes), key=abs, default=0)
        return end, worst

    def take_away(self) -> None:
        """Take the machine away, as Azure does with a low-priority one: nothing is asked first."""
        self._taken.set()

    def wipe(self) -> None:
        """Empty the disk."""
        for path in (self._folder, self._temporary):
            shutil.rmtree(path, ignore_errors=True)

    def _end(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        self._signal(signal.SIGTERM)
        while (
            any(process.poll() is None for process in self._processes)
            and time.monotonic() < deadline
        ):
            time.sleep(POLL_SECONDS)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

"""The process that stands beside one job on this machine: it starts the job's command, starts it again
where it is killed, and notes how it ended.

    python -m azureml_jobs.backends.supervisor FOLDER

FOLDER/job.json says what to start. It outlives whoever asked for the job, so that a job which was
detached from its terminal is looked after too, and the exit status is found later by anybody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from azureml_jobs.backends.job_files import EXIT_FILE, JOB_FILE, STOP_FILE, read_file, write_file
from azureml_jobs.backends.kept_logs import LOG_FILE, LOOK_SECONDS, LogLifetime
from azureml_jobs.backends.process_identity import identity_of
from azureml_jobs.backends.restarts import Restarts

POLL_SECONDS: Final = 0.1
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals by which somebody asks a job to end; passed on, and no reason to start it again."""


class Supervisor:
    """One job's command, over all its starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._what: dict[str, Any] = read_file(folder / JOB_FILE) or {}
        self._restarts = Restarts.from_json(self._what.get("restarts"))
        self._log = LogLifetime(folder, self._what.get("log_days"))
        self._told_to_end = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, refuse: Callable[[str], object], accept: Callable[[], None]) -> None:
        """Start the command, `accept` once it is started, and wait for its last end.

        `refuse` is told why it can't be started.
        """
        for number in ENDING:
            signal.signal(number, self._end)
        try:
            child = self._start()
        except OSError as error:
            refuse(f"{error.filename}: {error.strerror}")
            return
        accept()
        status = self._waited(child)
        while self._starts_again(status):
            try:
                child = self._start()
            except OSError as error:
                print(f"it can't be started again: {error.filename}: {error.strerror}", flush=True)
                break
            status = self._waited(child)
        write_file(self._folder / EXIT_FILE, {"status": status, "ended": time.time()})

    def _waited(self, child: subprocess.Popen[bytes]) -> int:
        """Return how a command ended; what it says is kept for as long as its owner has set."""
        while True:
            try:
                return child.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                self._log.look()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the command and note its process; raises OSError."""
        child = subprocess.Popen(
            self._what["argv"], cwd=self._what["cwd"], stdin=subprocess.DEVNULL
        )
        self._child = child
        own = {
            "pid": child.pid,
            "process": identity_of(child.pid),
            "supervisor": identity_of(os.getpid()),
            "restarted": 0 if self._restarts is None else self._restarts.count,
        }
        write_file(self._folder / JOB_FILE, {**self._what, **own})
        return child

    def _starts_again(self, status: int) -> bool:
        """Return, after the pause, whether a command that ended is to be started again.

        Only one that was killed is: whatever ends by itself has said why, and would do so again.
        """
        if status >= 0 or -status in ENDING or self._restarts is None or self._is_over():
            return False
        name = signal.Signals(-status).name
        pause = self._restarts.pause(time.monotonic())
        if pause is None:
            what = f"{self._restarts.most} times in {self._restarts.window:.0f} s"
            print(
                f"It was killed ({name}) once more after it was started again {what}: no further"
                " restart. Look at its memory.",
                flush=True,
            )
            return False
        print(f"It was killed ({name}). It is started again in {pause:g} s.", flush=True)
        end = time.monotonic() + pause
        while time.monotonic() < end:
            if self._is_over():
                return False
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
        return not self._is_over()

    def _is_over(self) -> bool:
        return self._told_to_end or (self._folder / STOP_FILE).exists()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._told_to_end = True
        if self._child is not None:
            self._child.send_signal(number)


def supervise(folder: Path) -> int:
    """Start the command of `folder`/job.json, return, and in a process of its own session look after
    it to its end.
    """
    answer, started = os.pipe()
    if os.fork():
        os.close(started)
        with open(answer, "rb") as said:
            why = said.read().decode()
        print(why, file=sys.stderr)
        return int(bool(why))
    os.setsid()
    os.close(answer)
    with (folder / LOG_FILE).open("ab") as log, open(os.devnull) as nothing:
        for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours.fileno(), theirs)
    supervisor = Supervisor(folder)
    supervisor.run(lambda why: os.write(started, why.encode()), lambda: os.close(started))
    return 0


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))

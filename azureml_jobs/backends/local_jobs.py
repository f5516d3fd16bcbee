"""Jobs as processes of this machine, each with a folder and an environment of its own, as a cloud
would run them.

jobs = LocalJobs(Path(".meadow/federation/jobs")) jobs.start("server", [sys.executable, "-m",
"azureml_jobs.cli.main", "serve"], environment(os.environ)) jobs.wait("server")

`jobs/<name>/` holds job.json (what runs), log.txt (what it says) and exit.json (how it ended). A
small process beside each job (`supervisor.py`) starts the command, starts it again where it is
killed, and outlives whoever asked for it.

    MDW-190 the job can't be started    MDW-191 there is no such job
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from azureml_jobs.backends.job_files import (
    EXIT_FILE,
    JOB_FILE,
    STOP_FILE,
    damaged,
    read_file,
    write_file,
)
from azureml_jobs.backends.kept_logs import LOG_FILE, log_files
from azureml_jobs.backends.process_identity import process_of
from azureml_jobs.backends.restarts import Restarts
from conf.errors import ConfigError
from conf.files.locks import locked
from conf.files.whole import write_atomic

STOP_SECONDS: Final = 20.0
"""Between SIGTERM and SIGKILL: a silo hands its message back and an orchestrator closes its files
in far less.
"""
POLL_SECONDS: Final = 0.1
START_SECONDS: Final = 60.0
"""For the supervisor to start the command, on a machine under load."""

ROOT: Final = Path(__file__).resolve().parents[2]
"""Where the packages lie: a job imports the code that started it."""
PASSED: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
)
PASSED_PREFIXES: Final = ("OMP_", "MKL_", "MEADOW_", "FLWR_")
WEBHOOK: Final = "MEADOW_WEBHOOK"
"""The one of these names that is a secret: for the orchestrator alone, where it is asked for."""

RUNNING, ENDED, LOST = "running", "ended", "lost"


@dataclass(frozen=True)
class Job:
    """A job as its folder tells it; times in seconds since 1970, `status` negative where a signal
    ended it.

    `state` is running, ended, or lost: gone without a word, as after a power cut.
    """

    name: str
    state: str
    pid: int
    started: float
    status: int | None = None
    ended: float | None = None
    restarts: int = 0
    """How often it was started again because it was killed."""
    supervised: bool = True
    """Whether there is still a process beside it that would start it again."""


def environment(of: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """Return the few variables that a job gets of the caller's: the rest may be anything, tokens
    included.

    `also` are prefixes of further names.
    """
    prefixes = (*PASSED_PREFIXES, *also)
    own = {name: value for name, value in of.items() if name in PASSED or name.startswith(prefixes)}
    if WEBHOOK not in also:
        own.pop(WEBHOOK, None)
    path = os.pathsep.join(
        dict.fromkeys(filter(None, [str(ROOT), *of.get("PYTHONPATH", "").split(os.pathsep)]))
    )
    return {**own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


class LocalJobs:
    """The jobs of one federation, by name, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, name: str) -> Path:
        """Return a job's own folder."""
        return self._folder / name

    def log(self, name: str) -> Path:
        """Return the file of what a job says, over all its starts."""
        return self.folder(name) / LOG_FILE

    def names(self) -> list[str]:
        """Return the jobs that were ever started, the server first."""
        found = [path.parent.name for path in self._folder.glob(f"*/{JOB_FILE}")]
        return sorted(found, key=lambda name: (name != "server", name))

    def start(
        self,
        name: str,
        argv: list[str],
        env: Mapping[str, str],
        cwd: Path | None = None,
        restarts: Restarts | None = None,
        log_days: float | None = None,
    ) -> bool:
        """Start a job, by default in its own folder; return False, and start nothing, where it runs
        already.

        Where it is killed it is started again as `restarts` say; without them it is not. What it
        says is kept for `log_days`, None: until it is forgotten.
        Raises ConfigError MDW-190 where the folder can't be written or the command can't be
        started.
        """
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Another start of the same job may be waiting for its supervisor.
            with locked(folder / ".lock", 2 * START_SECONDS):
                if self._state(name) == RUNNING:
                    return False
                (folder / EXIT_FILE).unlink(missing_ok=True)
                (folder / STOP_FILE).unlink(missing_ok=True)
                job = {"argv": argv, "cwd": str(cwd or folder), "started": time.time()}
                rule = None if restarts is None else restarts.to_json()
                more = {"restarts": rule, "log_days": log_days}
                write_file(folder / JOB_FILE, {**job, **more})
                self._supervise(name, folder, env)
                return True
        except OSError as error:
            raise _not_started(name, f"{error.filename or folder}: {error.strerror}") from error

    def status(self, name: str) -> Job:
        """Return what is known of a job; raises ConfigError MDW-191 where it was never started."""
        folder = self.folder(name)
        what, end = read_file(folder / JOB_FILE), read_file(folder / EXIT_FILE)
        if what is None:
            there = ", ".join(self.names()) or "none"
            raise ConfigError(
                "MDW-191", f"There is no job {name} in {self._folder}.", f"Jobs: {there}."
            )
        try:
            pid = int(what.get("pid", 0))
            started = float(what["started"])
            restarted = int(what.get("restarted", 0))
            if end is not None:
                ended = float(end["ended"])
                return Job(name, ENDED, pid, started, int(end["status"]), ended, restarted)
            supervised = process_of(what.get("supervisor")) is not None
            alive = supervised or process_of(what.get("process")) is not None
        except (KeyError, TypeError, ValueError, IndexError):
            raise damaged(folder / JOB_FILE) from None
        state = RUNNING if alive else LOST
        return Job(name, state, pid, started, restarts=restarted, supervised=supervised)

    def wait(self, name: str, seconds: float | None = None) -> Job:
        """Return the job once it has ended, or as it is after `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while (job := self.status(name)).state == RUNNING and (
            deadline is None or time.monotonic() < deadline
        ):
            time.sleep(POLL_SECONDS)
        return job

    def stop(self, names: Iterable[str], seconds: float = STOP_SECONDS) -> list[Job]:
        """Ask jobs to end with SIGTERM, all at once; end with SIGKILL those that still run after
        `seconds`. None of them is started again.
        """
        chosen = list(names)
        deadline = time.monotonic() + seconds
        for name in chosen:
            # Before the signal: its supervisor looks for it when the command has ended.
            write_atomic(self.folder(name) / STOP_FILE, b"")
            self.signal(name, signal.SIGTERM)
        ended = []
        for name in chosen:
            if self.wait(name, max(0.0, deadline - time.monotonic())).state == RUNNING:
                self.signal(name, signal.SIGKILL)
            ended.append(self.wait(name, seconds))
        return ended

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a job, SIGKILL to all that it started; nothing happens where it has
        ended. One that was killed may be started again: `stop` ends it for good.
        """
        process = process_of((read_file(self.folder(name) / JOB_FILE) or {}).get("process"))
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            family = process.children(recursive=True) if number == signal.SIGKILL else []
            for one in [process, *family]:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(number)

    def logs(self, names: Iterable[str], follow: bool = False) -> Iterator[str]:
        """Yield the jobs' lines as `[name] line`; with `follow`, as they come until all jobs have
        ended.
        """
        tails = {name: Tail(self.log(name)) for name in names}
        for name in tails:
            for aside in log_files(self.folder(name))[:-1]:
                yield from (f"[{name}] {line}" for line in Tail(aside).lines())
        while True:
            going = follow and any(
                self._state(name) == RUNNING for name in tails
            )  # asked before the last look
            for name, tail in tails.items():
                yield from (f"[{name}] {line}" for line in tail.lines())
            if not going:
                return
            time.sleep(POLL_SECONDS)

    def _state(self, name: str) -> str | None:
        return self.status(name).state if (self.folder(name) / JOB_FILE).exists() else None

    def _supervise(self, name: str, folder: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "azureml_jobs.backends.supervisor", str(folder)]
        try:
            done = subprocess.run(
                command, env=dict(env), capture_output=True, text=True, timeout=START_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise _not_started(name, f"it took longer than {START_SECONDS:.0f} s") from None
        if done.returncode:
            (folder / JOB_FILE).unlink(missing_ok=True)
            raise _not_started(
                name, (done.stderr.strip().splitlines() or ["its supervisor failed"])[-1]
            )


class Tail:
    """Whole lines of a growing file, each once, from `position` (bytes) on."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path, self._position, self._rest = path, position, b""

    def lines(self) -> list[str]:
        """Return the lines that were finished since the last call."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._position:
                # What was there has been put aside, or forgotten.
                self._position, self._rest = 0, b""
            file.seek(self._position)
            new = file.read()
            self._position += len(new)
            *whole, self._rest = (self._rest + new).split(b"\n")
            return [line.decode(errors="replace") for line in whole]
        return []


def _not_started(name: str, why: str) -> ConfigError:
    return ConfigError(
        "MDW-190", f"The job {name} can't be started: {why}.", "Fix that, then start it again."
    )

"""Jobs as processes of this machine, each with a folder and an environment of its own, as a cloud
would run them.

jobs = LocalJobs(Path(".meadow/federation/jobs")) jobs.start("server", [sys.executable, "-m",
"azureml_jobs.cli.main", "serve"], environment(os.environ)) jobs.wait("server")

`jobs/<name>/` holds job.json (what runs), log.txt (what it says) and exit.json (how it ended). A
small supervisor (`python -m azureml_jobs.backends.local_jobs FOLDER`) starts the command and
outlives whoever asked for it, so that the exit status is found later by anybody.

    MDW-190 the job can't be started    MDW-191 there is no such job
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil

from azureml_jobs.backends.process_identity import identity_of, process_of
from conf.atomic_files import write_atomic
from conf.errors import ConfigError

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


def environment(of: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """Return the few variables that a job gets of the caller's: the rest may be anything, tokens
    included.

    `also` are prefixes of further names.
    """
    prefixes = (*PASSED_PREFIXES, *also)
    own = {name: value for name, value in of.items() if name in PASSED or name.startswith(prefixes)}
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
        return self.folder(name) / "log.txt"

    def names(self) -> list[str]:
        """Return the jobs that were ever started, the server first."""
        found = [path.parent.name for path in self._folder.glob("*/job.json")]
        return sorted(found, key=lambda name: (name != "server", name))

    def start(
        self, name: str, argv: list[str], env: Mapping[str, str], cwd: Path | None = None
    ) -> bool:
        """Start a job, by default in its own folder; return False, and start nothing, where it runs
        already.

        Raises ConfigError MDW-190 where the folder can't be written or the command can't be
        started.
        """
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(folder):
                if self._state(name) == RUNNING:
                    return False
                (folder / "exit.json").unlink(missing_ok=True)
                _write(
                    folder / "job.json",
                    {"argv": argv, "cwd": str(cwd or folder), "started": time.time()},
                )
                self._supervise(name, folder, env)
                return True
        except OSError as error:
            raise _not_started(name, f"{error.filename or folder}: {error.strerror}") from error

    def status(self, name: str) -> Job:
        """Return what is known of a job; raises ConfigError MDW-191 where it was never started."""
        folder = self.folder(name)
        what, end = _read(folder / "job.json"), _read(folder / "exit.json")
        if what is None:
            there = ", ".join(self.names()) or "none"
            raise ConfigError(
                "MDW-191", f"There is no job {name} in {self._folder}.", f"Jobs: {there}."
            )
        try:
            pid = int(what.get("pid", 0))
            started = float(what["started"])
            if end is not None:
                return Job(name, ENDED, pid, started, int(end["status"]), float(end["ended"]))
            alive = any(process_of(what.get(one)) for one in ("process", "supervisor"))
        except (KeyError, TypeError, ValueError, IndexError):
            raise _damaged(folder / "job.json") from None
        return Job(name, RUNNING if alive else LOST, pid, started)

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
        `seconds`.
        """
        chosen, deadline = list(names), time.monotonic() + seconds
        for name in chosen:
            self.signal(name, signal.SIGTERM)
        ended = []
        for name in chosen:
            if self.wait(name, max(0.0, deadline - time.monotonic())).state == RUNNING:
                self.signal(name, signal.SIGKILL)
            ended.append(self.wait(name, seconds))
        return ended

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a job, SIGKILL to all that it started; nothing happens where it has
        ended.
        """
        process = process_of((_read(self.folder(name) / "job.json") or {}).get("process"))
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
        return self.status(name).state if (self.folder(name) / "job.json").exists() else None

    def _supervise(self, name: str, folder: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "azureml_jobs.backends.local_jobs", str(folder)]
        try:
            done = subprocess.run(
                command, env=dict(env), capture_output=True, text=True, timeout=START_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise _not_started(name, f"it took longer than {START_SECONDS:.0f} s") from None
        if done.returncode:
            (folder / "job.json").unlink(missing_ok=True)
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


def _damaged(path: Path) -> ConfigError:
    hint = f"End its process by hand if it runs, then delete {path.parent / '*.json'}."
    return ConfigError("MDW-198", f"{path} is damaged.", hint)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a job's file holds, None where there is none.

    Raises ConfigError MDW-198 for a damaged one.
    """
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(content))


# ---- the supervisor's process


def supervise(folder: Path) -> int:
    """Start the command of `folder`/job.json, return, and in a process of its own session note how
    it ends.
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
    with (folder / "log.txt").open("ab") as log, open(os.devnull) as nothing:
        for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours.fileno(), theirs)
    _command(folder, lambda why: os.write(started, why.encode()), lambda: os.close(started))
    return 0


def _command(folder: Path, refuse: Callable[[str], object], accept: Callable[[], None]) -> None:
    what = _read(folder / "job.json") or {}
    try:
        child = subprocess.Popen(what["argv"], cwd=what["cwd"], stdin=subprocess.DEVNULL)
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}")
        return
    own = {
        "pid": child.pid,
        "process": identity_of(child.pid),
        "supervisor": identity_of(os.getpid()),
    }

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    _write(folder / "job.json", {**what, **own})
    accept()
    status = child.wait()
    _write(folder / "exit.json", {"status": status, "ended": time.time()})


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))

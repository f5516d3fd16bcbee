"""Looking at a federation's jobs on Azure ML: what they say, merged as it comes, and one table of where they are."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from azureml_jobs.backends.azure import AzureFederation
from azureml_jobs.backends.workspace import AzureJob, JobTold
from conf.errors import MeadowError

POLL_SECONDS: Final = 2.0
"""Between two looks at a job's logs."""
AT_ONCE: Final = 16
"""Workspaces that are asked at the same time."""
SEE_ROLE: Final = "Reader"
HEAD: Final = ("part", "state", "job", "where")
Row = tuple[str, str, str, str]


class LogPlace(Protocol):
    """What reading logs needs of a workspace (`azureml_jobs.backends.workspace.Workspace` has it)."""

    def told(self, name: str) -> JobTold:
        """Return what run history tells of a job."""

    def log(self, url: str, start: int) -> bytes:
        """Return what a log holds from a byte on."""


class JobLog:
    """The lines of one job, each once, behind `label`: `north`, or `north[1]` where several processes speak."""

    def __init__(self, place: LogPlace, job: str, label: str) -> None:
        self._place, self._job, self._label = place, job, label
        self._seen: dict[str, int] = {}
        self._begun: dict[str, bytes] = {}  # lines without an end so far
        self.told = JobTold("", "", {})

    def lines(self) -> list[str]:
        """Return the whole lines since the last call; all that is left, and how it ended, where the job is over."""
        self.told = self._place.told(
            self._job
        )  # before the logs are read, so that the last look misses nothing
        found = []
        for name, url in self.told.logs.items():
            new = self._place.log(url, self._seen.get(name, 0))
            self._seen[name] = self._seen.get(name, 0) + len(new)
            *whole, self._begun[name] = (self._begun.get(name, b"") + new).split(b"\n")
            if self.told.over and self._begun[name]:
                whole.append(self._begun.pop(name))
            found += [
                f"{_label(self._label, name)}  {line.decode(errors='replace').rstrip()}"
                for line in whole
            ]
        if self.told.over:
            found.append(
                f"{self._label}  {self.told.status}"
                + (f": {self.told.error}" if self.told.error else "")
            )
        return found


def follow(logs: Sequence[JobLog]) -> Iterator[str | MeadowError]:
    """Yield the lines of several jobs as they come until all have ended; an error ends the lines of its job alone.

    Each job has a thread, so that one slow workspace holds no other up; closing the iterator ends them.
    """
    said: queue.SimpleQueue[str | MeadowError | None] = queue.SimpleQueue()
    closed = threading.Event()
    threads = [
        threading.Thread(target=_listen, args=(log, said, closed), name="log", daemon=True)
        for log in logs
    ]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            line = said.get()
            if line is None:
                left -= 1
            else:
                yield line
    finally:
        closed.set()


Seen = AzureJob | MeadowError | None


def look(federation: AzureFederation, silos: Sequence[str]) -> dict[str, Seen]:
    """Return the job of each silo ('' for the orchestrator), or why it can't be seen; None where there is none.

    All workspaces are asked at once; one that refuses or can't be reached holds no other up.
    """

    def seen(silo: str) -> Seen:
        try:
            return next(iter(federation.jobs([silo] if silo else [], server=not silo)), None)
        except MeadowError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as asking:
        return dict(zip(silos, asking.map(seen, silos), strict=True))


def row(part: str, seen: Seen) -> Row:
    """Return a part's line of the table."""
    if isinstance(seen, MeadowError):
        return part, "not seen", "", unseen(seen)
    return (part, seen.status, seen.name, seen.studio) if seen else (part, "no job", "", "")


def unseen(error: MeadowError) -> str:
    """Return in a few words why something can't be seen."""
    if error.code == "MDW-801":
        return f"not yours to see: it needs the role '{SEE_ROLE}' there"
    return (
        f"not reached: {error.message}"
        if error.code == "MDW-800"
        else f"{error.code}: {error.message}"
    )


def _label(part: str, log: str) -> str:
    """Return a job's label for one of its logs, such as user_logs/std_log_process_1.txt."""
    _, several, number = log.removesuffix(".txt").rpartition("std_log_process_")
    return f"{part}[{number}]" if several else part


def _listen(
    log: JobLog, said: queue.SimpleQueue[str | MeadowError | None], closed: threading.Event
) -> None:
    try:
        while True:
            for line in log.lines():
                said.put(line)
            if log.told.over or closed.wait(POLL_SECONDS):
                return
    except MeadowError as error:
        said.put(error)
    finally:
        said.put(None)

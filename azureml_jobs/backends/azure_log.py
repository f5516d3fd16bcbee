"""What a job on Azure ML says, read as it grows."""

from __future__ import annotations

from typing import Final, Protocol

from azureml_jobs.backends.workspace import JobTold

BUILD_LINES: Final = 20
"""Of the log of an image's build, from its end."""
IMAGE_FAILED: Final = "MDW-815"


class LogSource(Protocol):
    """The two questions to a workspace that reading logs needs, so that a test can answer them."""

    def told(self, name: str) -> JobTold:
        """Return what run history tells of a job."""

    def log(self, url: str, start: int) -> bytes:
        """Return what a log holds from a byte on."""


class AzureLog:
    """The lines of one job, each once, behind `part`: `north`, or `north[1]` where several
    processes speak.
    """

    def __init__(self, source: LogSource, job: str, part: str) -> None:
        self._source = source
        self._job = job
        self._part = part
        self._read: dict[str, int] = {}
        self._unfinished: dict[str, bytes] = {}
        self._told = JobTold("", "", {})

    @property
    def over(self) -> bool:
        """Return whether the job had ended at the last call of `lines`."""
        return self._told.over

    def lines(self) -> list[tuple[str, str]]:
        """Return the whole lines since the last call; all that is left, and how it ended, where the
        job is over.
        """
        # asked before the logs are read, so that the last look misses nothing
        self._told = self._source.told(self._job)
        found = []
        for name, url in self._told.logs.items():
            label = _label(self._part, name)
            found += [
                (label, line.decode(errors="replace").rstrip()) for line in self._new(name, url)
            ]
        if self._told.over:
            found += self._end()
        return found

    def _end(self) -> list[tuple[str, str]]:
        """Return how the job ended; where its image could not be built, with the build's last lines.

        Who sees them is who may read the job's workspace: its owner.
        """
        told = self._told
        why = f": {told.error}" if told.error else ""
        if not told.image_failed:
            return [(self._part, f"{told.status}{why}")]
        lines = []
        if told.build_log:
            text = self._source.log(told.build_log, 0).decode(errors="replace")
            lines = [line.rstrip() for line in text.splitlines() if line.strip()][-BUILD_LINES:]
        said = f"{IMAGE_FAILED}: {told.status}{why} (docs/errors.md)"
        return [*((self._part, f"build: {line}") for line in lines), (self._part, said)]

    def _new(self, name: str, url: str) -> list[bytes]:
        """Return the lines of one log that were finished since the last call; a job that is over
        finishes its last.
        """
        start = self._read.get(name, 0)
        new = self._source.log(url, start)
        self._read[name] = start + len(new)
        *whole, rest = (self._unfinished.pop(name, b"") + new).split(b"\n")
        if self._told.over and rest:
            whole.append(rest)
        else:
            self._unfinished[name] = rest
        return whole


def _label(part: str, log: str) -> str:
    """Return a job's label for one of its logs, such as user_logs/std_log_process_1.txt."""
    _, several, number = log.removesuffix(".txt").rpartition("std_log_process_")
    return f"{part}[{number}]" if several else part

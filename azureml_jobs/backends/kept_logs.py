"""What a job on this machine has said, and for how long it is kept.

A job writes to `log.txt` for as long as it lives, over all its starts. Where its owner has set a
lifetime, the process beside it puts what is there aside once a day (`log-TIME.txt`) and deletes what
has been aside for longer than that. The job holds the file open: its content is copied and the file
is cut to nothing, so a line that is written between the two is lost.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from conf.files.whole import give_mode

LOG_FILE: Final = "log.txt"
DAY: Final = 86400.0
LOOK_SECONDS: Final = 60.0
"""Between two looks of the process beside a job."""
_ASIDE: Final = re.compile(r"log-\d{8}T\d{12}\.txt")


def log_files(folder: Path) -> list[Path]:
    """Return the files of what a job has said, the oldest first; the last is the one that grows."""
    aside = sorted(path for path in folder.glob("log-*.txt") if _ASIDE.fullmatch(path.name))
    return [*aside, folder / LOG_FILE]


def forget_logs(folder: Path) -> tuple[int, int]:
    """Delete all that a job has said until now; return how many files and bytes it was."""
    files = size = 0
    for path in log_files(folder):
        with suppress(FileNotFoundError):
            held = path.stat().st_size
            if path.name == LOG_FILE:
                # A running job goes on writing to it.
                with path.open("r+b") as log:
                    log.truncate(0)
            else:
                path.unlink()
            files += held > 0
            size += held
    return files, size


class LogLifetime:
    """Keeps one job's log for `days`, looked at now and then; None keeps it until it is forgotten."""

    def __init__(
        self, folder: Path, days: float | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._days = days
        self._clock = clock
        self._next_turn = clock() + self._every

    @property
    def _every(self) -> float:
        return min(DAY, (self._days or 1.0) * DAY)

    def look(self) -> None:
        """Put aside what is a day old, and delete what has outlived its lifetime.

        What can't be is tried again at the next look: no log is worth a job.
        """
        if self._days is None:
            return
        with suppress(OSError):
            if self._clock() >= self._next_turn:
                self._next_turn = self._clock() + self._every
                self._put_aside()
            for path in log_files(self._folder)[:-1]:
                if self._clock() - _put_aside_at(path) >= self._days * DAY:
                    path.unlink(missing_ok=True)

    def _put_aside(self) -> None:
        log = self._folder / LOG_FILE
        if not log.stat().st_size:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        aside = self._folder / f"log-{now:%Y%m%dT%H%M%S%f}.txt"
        shutil.copyfile(log, aside)
        give_mode(aside, 0o600)
        with log.open("r+b") as grows:
            grows.truncate(0)


def _put_aside_at(path: Path) -> float:
    """Return when a file was put aside, by its name, in seconds since 1970."""
    stamp = datetime.strptime(path.stem, "log-%Y%m%dT%H%M%S%f")
    return stamp.replace(tzinfo=UTC).timestamp()

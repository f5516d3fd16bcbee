"""What a rehearsal shows of a run while it waits: the lines that the orchestrator prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from azureml_jobs.backends.base import ORCHESTRATOR, Backend
from conf.errors import AzureError

_LOG_RECORD: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ")
"""What a line of logging begins with; a line without it was printed for people."""


@dataclass
class Followed:
    """The orchestrator's lines about its runs, each shown once."""

    backend: Backend
    echo: Callable[[str], None]

    def __post_init__(self) -> None:
        self._log = self.backend.log_from_now(ORCHESTRATOR)

    def look(self) -> None:
        """Show what is new; a log that can't be read now is read at the next look."""
        try:
            lines = self._log.lines()
        except AzureError:
            return
        for _, line in lines:
            if line and not _LOG_RECORD.match(line):
                self.echo(f"  {line}")

    def orchestrator_ended(self) -> bool:
        """Return that nobody starts another orchestrator."""
        return False

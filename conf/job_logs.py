"""How a job writes its log: lines for people, or with `MEADOW_LOGS=json` a JSON object a line."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Final

from conf.border import plain_lines

VARIABLE: Final = "MEADOW_LOGS"
"""Environment variable; `json` is its only value that changes anything."""
FOR_PEOPLE: Final = "%(asctime)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (UTC, ISO 8601), `level`, `logger`, `message`, and `error` with
    the traceback where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line, whatever its message holds."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class PlainLines(logging.Formatter):
    """Lines without control characters, whoever's text is in them.

    Line breaks and tabs stay: a traceback has them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return plain_lines(super().format(record))


def formatter(for_people: str = FOR_PEOPLE) -> logging.Formatter:
    """Return how lines are written: as the environment says, or as `for_people` says."""
    if os.environ.get(VARIABLE) == "json":
        return JsonLines()
    return PlainLines(for_people)


def log_to_stderr() -> None:
    """Let this process, a job, write its log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])

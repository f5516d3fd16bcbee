"""When keys and certificates expire: a warning 30, 7 and 1 days before, then refused (MDW-705)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from conf.errors import IdentityError

WARN_DAYS: Final = (1, 7, 30)
DAY_SECONDS: Final = 86400.0


def check_dates(what: str, begins: datetime, ends: datetime, now: datetime) -> None:
    """Raise IdentityError MDW-705 unless `now` lies between the two."""
    if now >= ends:
        raise IdentityError(
            "MDW-705", f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC.", "Make a new one."
        )
    if now < begins:
        hint = f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC: set it right."
        raise IdentityError(
            "MDW-705", f"{what} is valid only from {begins:%Y-%m-%d %H:%M} UTC.", hint
        )


def expiry_warning(what: str, begins: datetime, ends: datetime, now: datetime) -> str | None:
    """Return one line where the end is at most 30, 7 or 1 days away, or past; None otherwise.

    A limit that is half of the whole life or more does not warn: a new two-week certificate would
    warn from its first day.
    """
    if now >= ends:
        return f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC."
    for days in WARN_DAYS:
        limit = timedelta(days=days)
        if ends - now <= limit and 2 * limit < ends - begins:
            time_left = "a day" if days == 1 else f"{days} days"
            return f"{what} expires in {time_left} or less: {ends:%Y-%m-%d %H:%M} UTC."
    return None


@dataclass(frozen=True)
class Span:
    """How long something is valid, and what to do before it expires."""

    what: str
    begins: datetime
    ends: datetime
    hint: str


class Reminder:
    """Logs what will expire, each subject at most once a day; `clock` in seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._last_warning: dict[str, float] = {}

    def look(self, spans: Iterable[Span]) -> None:
        """Warn of each span that ends soon or has ended."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        for span in spans:
            warning = expiry_warning(span.what, span.begins, span.ends, now)
            if warning is not None:
                self.say(span.what, f"{warning} {span.hint}")

    def say(self, subject: str, text: str) -> None:
        """Log a warning, unless this subject had one within the day."""
        now = self._clock()
        if now - self._last_warning.get(subject, -DAY_SECONDS) >= DAY_SECONDS:
            self._last_warning[subject] = now
            self._log.warning("%s", text)

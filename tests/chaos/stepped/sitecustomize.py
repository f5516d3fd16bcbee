"""In a process of a chaos run: its wall clock is off by what a file says, as after a step of NTP.

Found by Python through PYTHONPATH, and by no other process. `time.time` and `datetime.now` are moved,
the clocks that only run on are not; so is nothing in C, such as the dates of a certificate.
"""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

FILE = "MEADOW_CHAOS_CLOCK"
_really = time.time
_really_ns = time.time_ns
_datetime = datetime.datetime


def _step() -> float:
    try:
        with open(os.environ[FILE]) as file:
            return float(file.read() or 0.0)
    except (OSError, KeyError, ValueError):
        return 0.0


class _Kind(type(_datetime)):  # type: ignore[misc]
    def __instancecheck__(cls, other: object) -> bool:
        # What is made in C is of the class that was there before.
        return isinstance(other, _datetime)


class _Stepped(_datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return cls.now()


if FILE in os.environ:
    time.time = lambda: _really() + _step()
    time.time_ns = lambda: _really_ns() + int(_step() * 1e9)
    datetime.datetime = _Stepped  # type: ignore[misc]

"""How transfers that take long go on, for people: on the orchestrator's side and on the silo's."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

OLD_SECONDS: Final = 600.0
"""Of what a silo's job said, after which it says nothing any more."""
STILL_SECONDS: Final = 15.0
VERBS: Final = {"down": "receives", "up": "sends"}


def transfer_line(silo: str, said: Mapping[str, Any]) -> str | None:
    """Return a line about one transfer; None where nothing is left of it.

    `said` has `direction`, `left` (bytes), `rate` (bytes a second), `still` (seconds without a byte).
    What is not of that form was written by another release, and is left out.
    """
    from server.run.units import duration, size

    verb = VERBS.get(str(said.get("direction")))
    try:
        left, rate, still = (int(said.get(key, 0)) for key in ("left", "rate", "still"))
    except (TypeError, ValueError, OverflowError):
        return None
    if verb is None or left <= 0:
        return None
    if still > 0:
        return f"{silo} {verb} a message: {size(left)} left, nothing moved for {duration(still)}"
    if rate <= 0:
        return f"{silo} {verb} a message: {size(left)} left"
    return f"{silo} {verb} a message: {size(left)} left at {size(rate)}/s, {duration(left / rate)}"


def own_transfer_line(silo: str, written: bytes | None, now: float | None = None) -> str | None:
    """Return the line about what a silo's own job has written; None where that is old or damaged."""
    if written is None:
        return None
    try:
        said = json.loads(written)
        age = (time.time() if now is None else now) - float(said["at"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    if age > OLD_SECONDS:
        return None
    return transfer_line(silo, said | {"still": age if age > STILL_SECONDS else 0})

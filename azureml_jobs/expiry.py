"""When keys and certificates end: refused afterwards (MDW-705), announced 30, 7 and 1 days before."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from conf.errors import IdentityError

WARN_DAYS: Final = (1, 7, 30)


def check_dates(what: str, begins: datetime, ends: datetime, now: datetime) -> None:
    """Raise IdentityError MDW-705 unless `now` lies between the two."""
    if now >= ends:
        raise IdentityError("MDW-705", f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC.", "Make a new one.")
    if now < begins:
        hint = f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC: set it right."
        raise IdentityError("MDW-705", f"{what} is valid only from {begins:%Y-%m-%d %H:%M} UTC.", hint)


def expiry_warning(what: str, begins: datetime, ends: datetime, now: datetime) -> str | None:
    """Return one line where the end is at most 30, 7 or 1 days away, or past; None otherwise.

    A limit that is half of a short life or more does not warn, or a fresh two-week certificate would.
    """
    if now >= ends:
        return f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC."
    for days in WARN_DAYS:
        if ends - now <= timedelta(days=days) and timedelta(days=2 * days) < ends - begins:
            return f"{what} expires in {'a day' if days == 1 else f'{days} days'} or less: {ends:%Y-%m-%d %H:%M} UTC."
    return None

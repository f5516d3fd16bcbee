"""What of an error crosses the border between two parties: its code and the fields that it
declares, never its text.

An exception's text may hold a path, a value, a line of somebody's data: it stays in the log of the
side on which it was raised. What comes from the other side is nobody's word but theirs: it is read
as the form below or shown as a quotation, in one line without control characters.

    MDW-341 {"allowed":"mlp","asked":"model=cnn"}

    MDW-647 what a silo's own code raised     MDW-648 an error that says no code
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from conf.errors import MeadowError, Told
from conf.files.faults import foreseen

MOST_FIELDS: Final = 8
LONGEST_FIELD: Final = 1200
LONGEST_QUOTATION: Final = 160
LONGEST_LINE: Final = 4000
"""Letters of an error as it travels."""
_NAME: Final = re.compile(r"[a-z][a-z_]{0,31}")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9 _.,:;=<>()+*\[\]-]")
_VALUE: Final = re.compile(rf"[A-Za-z0-9 _.,:;=<>()+*\[\]-]{{1,{LONGEST_FIELD}}}")
"""No slash, no quote: neither a path nor a sentence of somebody else's."""
_TRAVELS: Final = re.compile(r"(MDW-\d{3})(?: (\{.*\}))?")
_OF_FLOWER: Final = re.compile(r"<class '[^']*'>:<'(.*)'>", re.DOTALL)
"""How a node of Flower's own writes down what its app raised."""
_ELSEWHERE: Final = ("site-packages", "dist-packages", "/lib/python")


class CrossedError(Exception):
    """An error in the form in which it may cross the border; its text is what `across` returns."""


def across(error: BaseException) -> str:
    """Return what the other party is told of an error: a code, and fields."""
    if isinstance(error, CrossedError):
        return str(error)
    if isinstance(error, MeadowError):
        return _line(error.code, error.told)
    fault = foreseen(error)
    code = "MDW-647" if fault is None else fault.code
    return _line(code, {"raised": type(error).__name__, "at": _place(error)})


def heard(line: str | None) -> str:
    """Return in words what another party says of its error, as that party's.

    One line without control characters, of bounded length, whatever was sent.
    """
    text = (line or "")[:LONGEST_LINE]
    if wrapped := _OF_FLOWER.fullmatch(text):
        text = wrapped[1]
    match = _TRAVELS.fullmatch(text)
    if match is None:
        said = one_line(text, LONGEST_QUOTATION)
        return (
            f"the silo says MDW-648, in its own words: {said!r}"
            if said
            else "the silo says MDW-648"
        )
    fields = _fields(match[2])
    listed = ", ".join(f"{name} {value}" for name, value in fields.items())
    return f"the silo says {match[1]}" + (f" ({listed})" if listed else "")


def field(text: str) -> str:
    """Return a text as a field that may cross: what may not is replaced."""
    return _FOREIGN.sub("?", text)[:LONGEST_FIELD]


def one_line(text: str, most: int | None = None) -> str:
    """Return others' text without line breaks and control characters, which a terminal would
    obey; at most so many letters of it.
    """
    given = text if most is None else text[: 4 * most]
    line = " ".join("".join(c if c.isprintable() else " " for c in given).split())
    if most is None or len(line) <= most:
        return line
    return line[: most - 3] + "..."


def plain_lines(text: str) -> str:
    """Return a text of several lines without the control characters that a terminal obeys."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _line(code: str, told: Mapping[str, Told]) -> str:
    fields = _checked(told)
    if not fields:
        return code
    return f"{code} {json.dumps(fields, sort_keys=True, separators=(',', ':'))}"


def _fields(text: str | None) -> dict[str, Told]:
    try:
        raw: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return _checked(raw) if isinstance(raw, dict) else {}


def _checked(told: Mapping[str, Any]) -> dict[str, Told]:
    """Return the fields that may cross; the same on both sides, so that neither trusts the other."""
    fields: dict[str, Told] = {}
    for name, value in told.items():
        if len(fields) == MOST_FIELDS or not _NAME.fullmatch(name):
            continue
        if (isinstance(value, int) and abs(value) < 2**63) or (
            isinstance(value, str) and _VALUE.fullmatch(value)
        ):
            fields[name] = value
    return fields


def _place(error: BaseException) -> str:
    """Return the file and line of the last frame in code of a run: a name, no path."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in _ELSEWHERE):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "unknown"

"""A job's command line: what it binds, what becomes of it, and how long it may take."""

from __future__ import annotations

import re
from typing import Any, Final

_BINDING: Final = re.compile(r"\$\{\{\s*([\w.]+)\s*\}\}")
_OPTIONAL: Final = re.compile(r"\$\[\[(.*?)\]\]")


def command(text: str, values: dict[str, str]) -> str:
    """Return a command with its `${{...}}` replaced by their values.

    Optional `$[[...]]` parts that bind something without a value are left out.
    """

    def optional_part(match: re.Match[str]) -> str:
        part = match[1]
        complete = set(_BINDING.findall(part)) <= values.keys()
        return part if complete else ""

    text = _OPTIONAL.sub(optional_part, text)
    return _BINDING.sub(lambda binding: values[binding[1]], text)


def bindings(text: str) -> set[str]:
    """Return the names that a command binds outside its optional parts, such as `inputs.data`."""
    return set(_BINDING.findall(_OPTIONAL.sub("", text)))


def seconds_of(duration: Any) -> float | None:
    """Return an ISO 8601 duration such as PT10M in seconds; None where there is none."""
    pattern = r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?"
    match = re.fullmatch(pattern, str(duration or ""))
    if not match:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

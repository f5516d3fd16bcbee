"""Why a silo failed, in one line.

What is left of an error reply's reason without its remote traceback.
"""

from __future__ import annotations

import re

from conf.border import one_line

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CAUSE = "The above exception was the direct cause"
RAISED = re.compile(r"^(?P<type>(?:\w+\.)*[A-Z]\w*)(?:: (?P<text>.*))?$")
WRAPPED = re.compile(r"^<class '[^']*'>:<'(?P<text>.*)'>$", re.DOTALL)
LONGEST = 400
"""Characters of a reason: enough for a sentence and its list of names."""


def plain_reason(reason: str | None) -> str:
    """Return an error reply's reason as `Type: message`, in a line of at most `LONGEST` letters.

    Flower's simulation wraps it as `<class '...'>:<'...'>`, and Ray puts a coloured remote
    traceback inside, whose first part ends with the exception that the client raised.
    """
    text = COLOUR.sub("", reason or "").strip()
    if wrapped := WRAPPED.match(text):
        text = wrapped["text"].strip()
    lines = [line.rstrip() for line in text.split(CAUSE)[0].splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    # The last one: a traceback ends with what was raised. It stands at the margin, unlike the lines
    # of
    # code above it and the further lines of a message below it.
    raised = [at for at, line in enumerate(lines) if RAISED.match(line)]
    if raised:
        return _short(_without_module(lines[raised[-1]]), lines[raised[-1] + 1 :])
    more = lines[1:] if lines[0].endswith(":") else []
    return _short(lines[0].strip(), more)


def _without_module(line: str) -> str:
    kind, colon, text = line.partition(":")
    return kind.rsplit(".", 1)[-1] + colon + text


def _short(first: str, more: list[str]) -> str:
    """Join the lines of a message: the first alone may only say that the others hold the cause."""
    joined = one_line(" ".join([first, *more]))
    return joined if len(joined) <= LONGEST else joined[: LONGEST - 3] + "..."


def reasons_of(failed: dict[str, str]) -> str:
    """Return the silos' reasons, each said once."""
    silos: dict[str, list[str]] = {}
    for silo, reason in sorted(failed.items()):
        # As a word of its own: a silo may be called "a".
        name = rf"(?<![\w.-]){re.escape(silo)}(?![\w-])"
        silos.setdefault(re.sub(name, "the silo", reason), []).append(silo)
    if not silos:
        return "none failed"
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in silos.items())

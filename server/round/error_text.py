"""Why a silo failed, in one line: what is left of an error reply's reason without its remote traceback."""

from __future__ import annotations

import re

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CAUSE = "The above exception was the direct cause"
RAISED = re.compile(r"^(?P<type>(?:\w+\.)*[A-Z]\w*)(?:: (?P<text>.*))?$")
WRAPPED = re.compile(r"^<class '[^']*'>:<'(?P<text>.*)'>$", re.DOTALL)


def plain_reason(reason: str | None) -> str:
    """Return the reason of an error reply as `Type: message`.

    Flower's simulation wraps it as `<class '...'>:<'...'>`, and Ray puts a coloured remote traceback inside,
    whose first part ends with the exception that the client raised.
    """
    text = COLOUR.sub("", reason or "").strip()
    if wrapped := WRAPPED.match(text):
        text = wrapped["text"]
    lines = [line.strip() for line in text.split(CAUSE)[0].splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    raised = [found for line in lines if (found := RAISED.match(line))]
    if not raised:
        return lines[0]
    kind = raised[-1]["type"].rsplit(".", 1)[-1]
    return f"{kind}: {raised[-1]['text']}" if raised[-1]["text"] else kind

"""What the silos answer to the data contract before round 1, as one table: silo, column or class, what
was expected, and what was found in kind.

A silo's answer is the fields of its error (`conf.border`): never a value, a row, a path or a count.
What is more, file and row, is in that silo's own log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from client.tasks.base import OWN, Task
from conf.errors import DataError, MeadowError
from conf.schema import Silo

log = logging.getLogger(__name__)

TITLES: Final = ("silo", "column or class", "expected", "found", "code")
KEEPS: Final = "keeps the contract"
FAULTS: Final = "; "
PARTS: Final = " = "
"""Between the faults of a silo's answer, and between column, what was expected and what was found."""
MOST_ROWS: Final = 200
_CODE: Final = re.compile(r"MDW-\d{3}")
_FIELD: Final = re.compile(r"\b(column|expected|found|others)(?: |\":\")")


@dataclass(frozen=True)
class Answer:
    """One line of the table; of a silo that keeps the contract `found` says so."""

    silo: str
    column: str = ""
    expected: str = ""
    found: str = KEEPS
    code: str = ""


def of_error(silo: str, error: MeadowError) -> list[Answer]:
    """Return the lines of a silo that raised an error, as far as it may cross."""
    return _of_fields(silo, error.code, {name: str(value) for name, value in error.told.items()})


def of_reason(silo: str, reason: str | None) -> list[Answer]:
    """Return the lines of a silo whose answer is an error, in the words of `conf.border.heard` or as
    it crossed.
    """
    text = reason or ""
    code = _CODE.search(text)
    said = text[code.end() :] if code else ""
    parts = _FIELD.split(said)
    # What stands between two names of fields is the first one's value.
    told = {
        name: value.strip(' ,"{}():') for name, value in zip(parts[1::2], parts[2::2], strict=True)
    }
    return _of_fields(silo, code[0] if code else "", told)


def _of_fields(silo: str, code: str, told: Mapping[str, str]) -> list[Answer]:
    found = told.get("found", "can't take part")
    answers = [Answer(silo, told.get("column", ""), told.get("expected", ""), found, code)]
    for fault in told.get("others", "").split(FAULTS):
        parts = fault.split(PARTS)
        if len(parts) == 3:
            column, expected, kind = parts
            answers.append(Answer(silo, column, expected, kind, code))
    return answers


def table(answers: Iterable[Answer]) -> list[str]:
    """Return the answers as lines of text, silo by silo."""
    ordered = sorted(answers, key=lambda one: one.silo)
    rows = [(one.silo, one.column, one.expected, one.found, one.code) for one in ordered]
    rows = [TITLES, *rows[:MOST_ROWS]]
    widths = [max(len(row[place]) for row in rows) for place in range(len(TITLES))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def say(answers: Sequence[Answer]) -> None:
    """Write the table to the log where a silo breaks the contract, else that all keep it."""
    silos = {one.silo for one in answers}
    if all(one.found == KEEPS for one in answers):
        log.info("%d silo(s) keep the data contract", len(silos))
        return
    for line in table(answers):
        log.warning("%s", line)


def check_members(task: Task, members: Sequence[Silo]) -> None:
    """Ask each silo that has data of its own, on a machine that sees them all.

    Raises the first one's DataError where any breaks the contract, after all were asked and the table
    was written.
    """
    own = [silo for silo in members if silo.data.partition == OWN]
    if len(own) < 2:
        return
    answers: list[Answer] = []
    first: tuple[str, DataError] | None = None
    for silo in own:
        try:
            task.data(silo)
        except DataError as error:
            answers += of_error(silo.name, error)
            first = first or (silo.name, error)
        else:
            answers.append(Answer(silo.name))
    if first is None:
        return
    say(answers)
    name, fault = first
    raise DataError(fault.code, f"{name}: {fault.message}", fault.hint, fault.told) from fault

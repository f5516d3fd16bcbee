"""A run's history: one JSON line a closed round, appended once, each with the SHA-256 of the line
before it.

It is the only place where rounds are written. A checkpoint holds a `Mark`: how long the history was
when its round closed, and the digest of its last line. So the file may be longer than the
checkpoint knows (a crash between the two), never shorter.

    MDW-507 the history is not the one that the checkpoint or the result marks     MDW-508 its chain is broken
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from azureml_jobs.storage.base import Store
from conf.errors import CheckpointError
from conf.files.faults import disk
from conf.versions import Format
from server.run.chain import NOTHING, line_digest, whole_lines
from server.run.files import append_durably
from server.run.result import FORMAT as RESULT_FORMAT
from server.run.result import RoundRecord, RunResult, finite

log = logging.getLogger(__name__)

FILE: Final = "history.jsonl"
SEGMENTS: Final = "history/"
"""Prefix of the lines in a store that outlives the folder: one object a round, named by its line's
number.
"""
FORMAT: Final = Format(
    "history",
    1,
    damaged="MDW-508",
    fix="Restore history.jsonl from a copy, or start a new run from the model: model.init=RUN_ID.",
)
LATER: Final = ("unscored", "privacy")
"""Fields of a record that earlier releases had not."""


@dataclass(frozen=True)
class Mark:
    """A place in a history: lines and bytes up to it, and the digest of the last of those lines."""

    lines: int = 0
    bytes: int = 0
    head: str = NOTHING

    def to_json(self) -> dict[str, Any]:
        """Return the mark as plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> Mark:
        """Return the mark that `to_json` wrote.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        mark = Mark(raw["lines"], raw["bytes"], raw["head"])
        numbers = (mark.lines, mark.bytes)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a mark's lines and bytes are whole numbers")
        if not isinstance(mark.head, str):
            raise TypeError("a mark's head is a text")
        return mark


class History:
    """The history of one run, open for appending after `mark`.

    What lies behind the mark belongs to a round that never counted, and is cut off. With a `store`,
    each line is also an object there, from which the file is made again on another machine.
    `failed` counts, by silo, the rounds in which it failed; `software` is what each silo said last
    that it runs; `evaluated` and `unevaluated` count the rounds that some silo evaluated, and those
    that were to be evaluated and no silo did. Raises CheckpointError MDW-507 where the lines up to
    the mark are not there, MDW-508 for a broken chain, MDW-505 for another version.
    """

    def __init__(self, path: Path, mark: Mark, store: Store | None = None) -> None:
        self._path = path
        self._store = store
        self._mark = mark
        self._last: RoundRecord | None = None
        self.failed: Counter[str] = Counter()
        self.software: dict[str, dict[str, str]] = {}
        self.evaluated = 0
        self.unevaluated = 0
        lines = self._restored()
        for record in read_lines(lines, path):
            self._note(record)

    @property
    def mark(self) -> Mark:
        """Where the next line goes."""
        return self._mark

    @property
    def last(self) -> RoundRecord | None:
        """The record of the last round; None before the first."""
        return self._last

    def append(self, record: RoundRecord) -> Mark:
        """Write a round's record, on disk when this returns, and return the place after it.

        Raises CheckpointError (MDW-513 to 517), leaving the history as it was.
        """
        line = encode(record, self._mark.head)
        append_durably(self._path, line + b"\n")
        if self._store is not None:
            # Replaced, not put: a round that is repeated after a crash overwrites the line that
            # never counted.
            # A store under a lease refuses this to an orchestrator that has been replaced.
            self._store.replace(_segment(self._mark.lines + 1), line + b"\n")
        self._mark = Mark(self._mark.lines + 1, self._mark.bytes + len(line) + 1, line_digest(line))
        self._note(record)
        return self._mark

    def _note(self, record: RoundRecord) -> None:
        self._last = record
        self.failed.update(record.failed.keys())
        self.software.update(record.software)
        self.evaluated += bool(record.evaluated)
        self.unevaluated += bool(record.unevaluated and not record.evaluated)

    def _restored(self) -> Sequence[bytes]:
        """Return the lines up to the mark, and leave the file with exactly those."""
        with disk("read", self._path):
            data = self._path.read_bytes() if self._path.exists() else b""
        lines = _up_to(self._mark, data)
        if lines is not None:
            self._cut(len(data))
            return lines
        if self._store is not None:
            data = self._from_store()
            lines = _up_to(self._mark, data)
        if lines is None:
            raise not_the_marked(self._path, self._mark, data)
        log.warning("%s: made again from the run's store", self._path)
        with disk("write", self._path):
            self._path.unlink(missing_ok=True)
        append_durably(self._path, data)
        return lines

    def _from_store(self) -> bytes:
        assert self._store is not None
        wanted = [_segment(number) for number in range(1, self._mark.lines + 1)]
        there = set(self._store.list(SEGMENTS))
        return b"".join(self._store.read(name) for name in wanted if name in there)

    def _cut(self, size: int) -> None:
        if size <= self._mark.bytes:
            return
        log.warning(
            "%s: what was written after round %d never counted and is dropped",
            self._path,
            self._mark.lines,
        )
        with disk("write", self._path):
            os.truncate(self._path, self._mark.bytes)


def encode(record: RoundRecord, previous: str) -> bytes:
    """Return a record as its line, without the newline; NaN and infinities become null."""
    # A later field is written where it says something: what earlier releases wrote is the same still.
    own = {name: value for name, value in record.__dict__.items() if value or name not in LATER}
    facts = FORMAT.stamp | {"previous": previous} | finite(own)
    return json.dumps(facts, separators=(",", ":"), allow_nan=False).encode()


def read_lines(lines: Sequence[bytes], where: object) -> Iterator[RoundRecord]:
    """Yield the records in a history's lines, each checked against the one before it.

    Raises CheckpointError: MDW-508 for a line that was changed, removed, added or moved, MDW-505
    for a version that this Meadow does not read.
    """
    previous = NOTHING
    for number, line in enumerate(lines, 1):
        place = f"{where}, line {number}"
        facts = FORMAT.loads(line, place)
        with FORMAT.reading(place):
            del facts[FORMAT.key]
            follows = facts.pop("previous")
            record = RoundRecord(**facts)
        if follows != previous:
            raise FORMAT.fault(place, "it does not follow from the line before it")
        if record.round != number:
            raise FORMAT.fault(place, f"it holds round {record.round}")
        previous = line_digest(line)
        yield record


def read_history(
    folder: Path, mark: Mark | None = None, *, beyond: bool = True
) -> Iterator[RoundRecord]:
    """Yield the rounds of a run's folder, one at a time; a last line that is unfinished is left
    out.

    A `mark` says what the history must at least hold; not `beyond`, lines after it are left out
    too. Raises CheckpointError as `History` does.
    """
    path = folder / FILE
    with disk("read", path):
        data = path.read_bytes() if path.exists() else b""
    lines: Sequence[bytes] = whole_lines(data)[0]
    if mark is not None:
        marked = _up_to(mark, data)
        if marked is None:
            raise not_the_marked(path, mark, data)
        lines = lines if beyond else marked
    yield from read_lines(lines, path)


def rounds_of(folder: Path, result: RunResult) -> Iterator[RoundRecord]:
    """Yield the rounds that a run's result counts; of a run that is running, those that have closed
    since too.

    Raises CheckpointError as `read_history` does, MDW-504 for a result whose mark can't be read.
    """
    with RESULT_FORMAT.reading(folder / "result.json"):
        mark = Mark.from_json(result.history) if result.history else None
    # Of a run that ended, a line behind the mark is that of a round that never counted.
    yield from read_history(folder, mark, beyond=result.status == "running")


def not_the_marked(path: Path, mark: Mark, data: bytes) -> CheckpointError:
    """Return the error for a history that does not hold what was marked."""
    lines = len(whole_lines(data)[0])
    what = f"has {lines} of its {mark.lines} lines" if lines < mark.lines else "holds other lines"
    return CheckpointError("MDW-507", f"{path} {what}.", FORMAT.fix)


def _up_to(mark: Mark, data: bytes) -> Sequence[bytes] | None:
    """Return the lines up to a mark; None where the data does not hold them."""
    if mark.bytes > len(data):
        return None
    lines, whole = whole_lines(data[: mark.bytes])
    head = line_digest(lines[-1]) if lines else NOTHING
    return lines if (len(lines), whole, head) == (mark.lines, mark.bytes, mark.head) else None


def _segment(line: int) -> str:
    return f"{SEGMENTS}{line:09d}.jsonl"

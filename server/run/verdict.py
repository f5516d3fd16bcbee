"""What a ledger's lines say of themselves: a chain that holds or not, and how far others confirm it.

MDW-520 the chain is broken    MDW-522 an anchor is not readable
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from conf.canonical import canonical
from conf.errors import CheckpointError
from conf.files.faults import disk_error
from conf.versions import VERSION_KEY, Format
from server.run.chain import NOTHING, line_digest, whole_lines

Facts = Mapping[str, Any]

FILE: Final = "ledger.jsonl"
FORMAT: Final = Format("ledger", 3, damaged="MDW-520", migrations={2: dict})
"""The lines `run started` and `run resumed` carry the version of all that follow.

Lines of version 2 are read as they are: only what the digest of an update is taken of was another,
and no line says more of an update than its digest.
"""

_ANCHOR = re.compile(r"(?:.*\s)?(\d{1,12}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Anchor:
    """What someone outside remembers of a ledger: how many lines it had and the digest of the last
    one.
    """

    where: str
    lines: int
    head: str

    def __str__(self) -> str:
        return f"{self.lines}:{self.head}"

    @staticmethod
    def parse(where: str, text: str) -> Anchor:
        """Read `lines:head`, the last word of a text; raises CheckpointError MDW-522."""
        match = _ANCHOR.fullmatch(text.strip())
        if match is None:
            raise CheckpointError(
                "MDW-522", f"{where} holds no anchor: {text[:60]!r}.", "It should be LINES:SHA256."
            )
        return Anchor(where, int(match[1]), match[2])


FOLLOWING: Final = frozenset(
    {"head signed", "silo key", "receipt", "receipt missing", "run closed", "forgotten"}
)
"""Events that only say something of the lines before them: behind the last confirmed line, they
claim nothing that nobody confirms.
"""


@dataclass
class Verdict:
    """What was found; `status` is verified, unconfirmed or broken."""

    lines: int
    head: str
    faults: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    """Who outside the folder agrees: silos by name, the orchestrator's key."""
    anchored: int = 0
    """Lines up to the last one that they confirm; only those are proven."""
    loose: int = 0
    """Lines behind these that say what happened in the run."""
    compared: list[str] = field(default_factory=list)
    """What else in the folder is the same as in the ledger."""
    notes: list[str] = field(default_factory=list)
    counted: str = "lines"
    """What a reader should know, and is not a fault."""

    @property
    def status(self) -> str:
        """Return the verdict in a word."""
        if self.faults:
            return "broken"
        return "verified" if self.confirmed else "unconfirmed"

    def __str__(self) -> str:
        if self.faults:
            return "broken: " + "; ".join(self.faults)
        agree = f"{self.lines} {self.counted} agree with each other"
        if self.compared:
            agree += f" and with the {_and(self.compared)}"
        if not self.confirmed:
            return f"unconfirmed: {agree}, confirmed by nothing but the folder itself"
        after = f"; the last {self.loose} of them are not confirmed yet" if self.loose else ""
        return f"verified: {agree}, confirmed by {', '.join(self.confirmed)}{after}"


def _and(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def verify(lines: Sequence[bytes], anchors: Sequence[Anchor] = ()) -> Verdict:
    """Re-compute a chain and compare it with what others remember of it.

    Finds a line changed, removed, added or moved, and an end cut off before an anchor. What comes
    after the last anchor can have been rewritten: `Verdict.anchored` says how far the proof goes.
    """
    digests = [line_digest(line) for line in lines]
    verdict = Verdict(len(lines), digests[-1] if digests else NOTHING)
    verdict.faults = _faults(lines, digests)
    for anchor in anchors:
        if anchor.lines > len(lines):
            verdict.faults.append(
                f"cut after line {len(lines)}: {anchor.where} has seen {anchor.lines}"
            )
        elif anchor.head != (digests[anchor.lines - 1] if anchor.lines else NOTHING):
            verdict.faults.append(
                f"line {anchor.lines} is not the one that {anchor.where} has seen"
            )
        else:
            if anchor.where not in verdict.confirmed:
                verdict.confirmed.append(anchor.where)
            verdict.anchored = max(verdict.anchored, anchor.lines)
    verdict.loose = _claims(lines[verdict.anchored :])
    return verdict


def _claims(lines: Sequence[bytes]) -> int:
    """Return how many lines say what happened, and not only who has confirmed what."""
    return sum((facts_of(line) or {}).get("event") not in FOLLOWING for line in lines)


def check_version(lines: Sequence[bytes], where: Path) -> None:
    """Raise CheckpointError MDW-505 where a process of another version has written to a ledger.

    A line that can't be read is left to `verify`, which says what was done to it.
    """
    for line in lines:
        # Cheap first: of a hundred thousand lines a handful carry the version.
        facts = facts_of(line) if b'"version":' in line else None
        if facts is not None and facts.get("event") in ("run started", "run resumed"):
            version = facts.get(VERSION_KEY)
            known = version == FORMAT.version or version in FORMAT.migrations
            if isinstance(version, int) and not known:
                raise FORMAT.of_another_version(where, version)


def verify_file(path: Path, anchors: Sequence[Anchor] = ()) -> Verdict:
    """Verify a `ledger.jsonl`; raises CheckpointError where it can't be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise disk_error(error, "read", str(path)) from error
    lines, whole = whole_lines(data)
    check_version(lines, path)
    verdict = verify(lines, anchors)
    if whole < len(data):
        verdict.faults.append(f"line {len(lines) + 1} is unfinished")
    return verdict


def _faults(lines: Sequence[bytes], digests: Sequence[str]) -> list[str]:
    faults, places = [], {digest: number for number, digest in enumerate(digests, 1)}
    last, expected = NOTHING, 1
    for number, (line, digest) in enumerate(zip(lines, digests, strict=True), 1):
        facts = facts_of(line)
        if facts is None:
            faults.append(f"line {number} was changed: it is not a line of a ledger")
        elif facts["previous"] != last or facts["line"] != expected:
            faults.append(_break(number, facts, expected, places))
        last, expected = digest, facts["line"] + 1 if facts else expected + 1
    return faults


def _break(number: int, facts: Facts, expected: int, places: Mapping[str, int]) -> str:
    """Say what most likely happened before a line that does not follow the one above it."""
    if (
        facts["previous"] in places
        or (facts["previous"] == NOTHING and number > 1)
        or facts["line"] < expected
    ):
        return f"line {number} is out of order: it was line {facts['line']}"
    if facts["line"] > expected:
        return f"lines {expected} to {facts['line'] - 1} were removed before line {number}"
    return f"line {number - 1} was changed: line {number} holds another digest of it"


def facts_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None where it is not a line of a ledger."""
    try:
        facts = json.loads(line)
        plain = (
            isinstance(facts["line"], int)
            and isinstance(facts["previous"], str)
            and isinstance(facts["event"], str)
            and canonical(facts) == line
        )
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return facts if plain else None

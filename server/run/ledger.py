"""The append-only record of a run: JSON lines, each of which holds the SHA-256 of the line before
it.

A chain alone proves nothing against who can rewrite all of it, so its head is anchored elsewhere
each round, as the text `lines:head`: in result.json, in an MLflow tag, in every silo's own record.
`verify` compares (docs/ledger.md).

    MDW-520 the chain is broken    MDW-521 two writers or two histories    MDW-522 an anchor is not readable
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flwr.app import ArrayRecord

from azureml_jobs.storage.base import Store
from azureml_jobs.storage.disk_errors import disk_error
from conf.errors import CheckpointError
from conf.versions import VERSION_KEY, Format
from server.round.admission import Admitted, Rejected
from server.run.chain import NOTHING, line_digest, whole_lines
from server.run.files import write_all
from strategies.wire.objects import view

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Facts = Mapping[str, Any]

FILE: Final = "ledger.jsonl"
FORMAT: Final = Format("ledger", 1, damaged="MDW-520")
"""The lines `run started` and `run resumed` carry the version of all that follow."""
SEGMENTS: Final = "ledger"
"""Prefix of the immutable segments in a store: `ledger/<run_id>/<first line>.jsonl`."""

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


@dataclass
class Verdict:
    """What `verify` found; `status` is verified, unanchored or broken."""

    lines: int
    head: str
    faults: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)  # anchors that agree
    anchored: int = 0  # lines up to the last anchor that agrees; only those are proven

    @property
    def status(self) -> str:
        """Return the verdict in a word."""
        return "broken" if self.faults else "verified" if self.confirmed else "unanchored"

    def __str__(self) -> str:
        if self.faults:
            return "broken: " + "; ".join(self.faults)
        if not self.confirmed:
            return f"unanchored: {self.lines} lines agree with each other, and nothing outside confirms them"
        loose = self.lines - self.anchored
        after = f"; the last {loose} not anchored yet" if loose else ""
        return f"verified: {self.lines} lines, confirmed by {', '.join(self.confirmed)}{after}"


class Ledger:
    """The ledger of one run, in a file and, with a store, in immutable segments put there by
    `seal`.

    Lines are gathered and written with one sync by `seal`, so that a round costs the same for any
    number of silos. No anchor of a line is handed out before.

    Opening continues what is there: the longer of file and segments, checked. A last line that a
    killed process left unfinished is dropped. Raises CheckpointError MDW-520 for a broken chain,
    MDW-521 where another process has the file open or file and segments disagree, MDW-505 where
    another version has written to it.
    """

    def __init__(
        self, path: Path, run_id: str, store: Store | None = None, clock: Clock = time.time
    ) -> None:
        self._path, self._run_id, self._store, self._clock = path, run_id, store, clock
        self._lines, self.head = 0, NOTHING
        self._unwritten: list[bytes] = []
        self._unsealed: list[bytes] = []
        self._file = self._opened()
        try:
            self._continue()
        except BaseException:
            self.close()
            raise

    def append(self, event: str, **facts: Any) -> str:
        """Add one line, to be written by the next `seal`, and return its digest, the new head.

        `facts` are plain JSON values.
        """
        line = canonical(
            {
                "line": self._lines + 1,
                "previous": self.head,
                "time": round(self._clock(), 3),
                "run": self._run_id,
            }
            | {"event": event}
            | facts
        )
        self._unwritten.append(line)
        self._count(line)
        return self.head

    def seal(self) -> Anchor:
        """Write the lines since the last seal, to the disk and into the store, and return the
        anchor to hand out.

        Raises CheckpointError: MDW-513 to 515 where the disk fails, which leaves the file as it was
        and the lines for the next seal; MDW-521 where another orchestrator has put different lines
        there.
        """
        if self._unwritten:
            self._write(b"".join(line + b"\n" for line in self._unwritten))
            self._unwritten = []
        if self._store is not None and self._unsealed:
            name = f"{SEGMENTS}/{self._run_id}/{self._lines - len(self._unsealed) + 1:09d}.jsonl"
            body = b"".join(line + b"\n" for line in self._unsealed)
            if not self._store.put_if_absent(name, body) and self._store.read(name) != body:
                raise self._disagreement(f"{name} holds other lines")
            self._unsealed = []
        return Anchor(str(self._path), self._lines, self.head)

    def run_started(
        self,
        *,
        federation: str,
        code: str,
        tree: str,
        config: str,
        silos: Sequence[str],
        resumed: bool,
    ) -> None:
        """Note that a run begins or is resumed.

        `code` is the digest of what must agree (`release_digest`), `tree` that of all that is
        installed at the server (`tree_digest`), `config` that of the run-scoped configuration.
        """
        event = "run resumed" if resumed else "run started"
        facts = {"federation": federation, "code": code, "tree": tree, "config": config}
        self.append(event, **FORMAT.stamp, **facts, silos=list(silos))
        self.seal()

    def update(
        self, round: int, silo: str, verdict: Admitted | Rejected, digest: str, phase: str = "train"
    ) -> None:
        """Note what admission said of an update; `digest` is `arrays_digest` of what was sent."""
        facts = {"round": round, "silo": silo, "phase": phase, "update": digest}
        if isinstance(verdict, Rejected):
            self.append("update refused", **facts, code=verdict.code, reason=verdict.reason)
            return
        norm = verdict.norm if verdict.norm is not None and verdict.norm < float("inf") else None
        self.append(
            "update admitted",
            **facts,
            examples=verdict.examples,
            norm=norm,
        )

    def software(self, round: int, silo: str, facts: Mapping[str, str]) -> None:
        """Note what a silo says that it runs (`strategies.wire.software`): at first, and where it
        has changed.
        """
        self.append("software", round=round, silo=silo, runs=dict(facts))

    def round_closed(
        self,
        round: int,
        model: str,
        admitted: Sequence[str],
        *,
        history: str = "",
        privacy: Facts | None = None,
    ) -> Anchor:
        """Note the round's model (its `arrays_digest`), its line's digest in the history and the
        privacy spent.

        Seals, and returns the anchor.
        """
        self.append(
            "round closed",
            round=round,
            model=model,
            history=history,
            admitted=sorted(admitted),
            privacy=dict(privacy or {}),
        )
        return self.seal()

    def model_tested(self, round: int, model: str, test: str) -> Anchor:
        """Note that a round's model was evaluated on the test splits; `test` is the digest of what
        was found (`server.run.result.FinalTest`).

        Seals, and returns the anchor. A run that is resumed for more rounds has one line an end.
        """
        self.append("model tested", round=round, model=model, test=test)
        return self.seal()

    def run_finished(self, status: str, model: str) -> Anchor:
        """Note how the run ended and with which model; seal, return the anchor."""
        self.append("run finished", status=status, model=model)
        return self.seal()

    def close(self) -> None:
        """Let go of the file; another process may then continue it.

        Lines that were not sealed are lost.
        """
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _opened(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, "open", str(self._path)) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            hint = "Stop the other process, or give this run another name."
            raise CheckpointError(
                "MDW-521", f"Another process is writing {self._path}.", hint
            ) from None
        return handle

    def _continue(self) -> None:
        here, whole = whole_lines(self._path.read_bytes())
        there = stored_lines(self._store, self._run_id) if self._store is not None else []
        if here[: len(there)] != there[: len(here)]:
            raise self._disagreement("the file and the store hold different lines")
        lines = max(here, there, key=len)
        check_version(lines, self._path)
        verdict = verify(lines)
        if verdict.faults:
            hint = "Restore the file from the store or a copy, or start a new run."
            raise CheckpointError("MDW-520", f"{self._path} is {verdict}.", hint)
        if whole < self._path.stat().st_size:
            log.warning("%s: dropped an unfinished last line", self._path)
            os.ftruncate(self._file, whole)
        self._write(b"".join(line + b"\n" for line in lines[len(here) :]))
        self._lines, self.head, self._unsealed = len(lines), verdict.head, lines[len(there) :]

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._file, data)
        except OSError as error:
            raise disk_error(error, "write", str(self._path)) from error

    def _count(self, line: bytes) -> None:
        self._lines, self.head = self._lines + 1, line_digest(line)
        if self._store is not None:
            self._unsealed.append(line)

    def _disagreement(self, what: str) -> CheckpointError:
        hint = "Find out which orchestrator wrote which before going on; neither was changed."
        return CheckpointError(
            "MDW-521", f"The ledger of {self._run_id} has two histories: {what}.", hint
        )


def canonical(facts: Facts) -> bytes:
    """Return facts as the one JSON text that digests are taken of.

    Raises ValueError for NaN and infinities.
    """
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def arrays_digest(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of a model or update: of each array, by name, its name, dtype, shape and
    values.

    The same however the arrays were packed for the wire, and in whatever order. Raises ValueError
    for one that can't be read.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(canonical({"name": name, "dtype": array.dtype, "shape": list(array.shape)}))
        try:
            digest.update(view(array))
        except Exception as error:  # numpy's reader of headers raises more than it says
            raise ValueError(f"{name[:80]!r}: {error}") from None
    return digest.hexdigest()


def stored_lines(store: Store, run_id: str) -> list[bytes]:
    """Return the lines of a run's segments in a store, in order."""
    return [
        line
        for name in store.list(f"{SEGMENTS}/{run_id}/")
        for line in whole_lines(store.read(name))[0]
    ]


def verify(lines: Sequence[bytes], anchors: Sequence[Anchor] = ()) -> Verdict:
    """Re-compute a chain and compare it with what others remember of it.

    Finds a line changed, removed, added or moved, and an end cut off before an anchor. What comes
    after the last anchor can have been rewritten: `Verdict.anchored` says how far the proof goes.
    """
    digests = [line_digest(line) for line in lines]
    verdict = Verdict(len(lines), digests[-1] if digests else NOTHING)
    verdict.faults = _faults(lines, digests)
    for anchor in anchors:
        known = (
            NOTHING
            if anchor.lines == 0
            else (digests[anchor.lines - 1] if anchor.lines <= len(lines) else None)
        )
        if known == anchor.head:
            verdict.confirmed.append(anchor.where)
            verdict.anchored = max(verdict.anchored, anchor.lines)
        elif known is None:
            verdict.faults.append(
                f"cut after line {len(lines)}: {anchor.where} has seen {anchor.lines}"
            )
        else:
            verdict.faults.append(
                f"line {anchor.lines} is not the one that {anchor.where} has seen"
            )
    return verdict


def check_version(lines: Sequence[bytes], where: Path) -> None:
    """Raise CheckpointError MDW-505 where a process of another version has written to a ledger.

    A line that can't be read is left to `verify`, which says what was done to it.
    """
    for line in lines:
        # Cheap first: of a hundred thousand lines a handful carry the version.
        facts = _facts(line) if b'"version":' in line else None
        if facts is not None and facts.get("event") in ("run started", "run resumed"):
            version = facts.get(VERSION_KEY)
            if isinstance(version, int) and version != FORMAT.version:
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
        facts = _facts(line)
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


def _facts(line: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(line)
        plain = (
            isinstance(facts["line"], int)
            and isinstance(facts["previous"], str)
            and canonical(facts) == line
        )
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return facts if plain else None

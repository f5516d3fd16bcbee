"""Is a run's ledger the one that was written? Compared with what others remember of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.errors import CheckpointError
from server.run.chain import line_digest, whole_lines
from server.run.history import FILE as HISTORY
from server.run.ledger import FILE, Anchor, Verdict, verify_file
from server.run.result import RunResult, finite


def audit(folder: Path, records: Iterable[Path] = ()) -> Verdict:
    """Return what the chain of a run's `ledger.jsonl`, its anchors, the run's history and its test
    say.

    Anchors are that of `result.json`, the tag of the run's MLflow run where there is one, and those
    in `records`: files that silos kept (`client.node.journal`: a JSON line a round). Raises
    CheckpointError where one can't be read.
    """
    result = RunResult.read(folder)
    anchors = [Anchor.parse("result.json", result.ledger)] if result.ledger else []
    for path in records:
        anchors += _of_silo(path, result.run_id)
    verdict = verify_file(folder / FILE, anchors)
    verdict.faults += _history_faults(folder)
    verdict.faults += _test_faults(folder, result)
    return verdict


def _history_faults(folder: Path) -> list[str]:
    """Return what is wrong with `history.jsonl` beside the ledger, which holds the digest of each
    of its lines.
    """
    known: dict[int, set[str]] = {}
    for line in whole_lines((folder / FILE).read_bytes())[0]:
        # A round that was repeated after a crash is in the ledger twice, and in the history once.
        facts = _round_closed(line)
        if facts is not None:
            known.setdefault(facts["round"], set()).add(facts["history"])
    history = folder / HISTORY
    lines = whole_lines(history.read_bytes())[0] if history.is_file() else []
    digests = {number: line_digest(line) for number, line in enumerate(lines, 1)}
    # A line behind the ledger's last round never counted.
    return [
        f"line {number} of {HISTORY} is not the one of the ledger"
        if number in digests
        else f"line {number} of {HISTORY} is missing"
        for number, heads in sorted(known.items())
        if digests.get(number) not in heads
    ]


def _test_faults(folder: Path, result: RunResult) -> list[str]:
    """Return what is wrong with the test in `result.json`, of which the ledger holds the digest."""
    if result.test is None:
        return []
    faults = []
    if finite(result.test.final) != finite(result.final):
        faults.append("result.json: its final metrics are not those of its test")
    # A run that was resumed for more rounds has been tested more than once: the last one counts.
    noted = ""
    for line in whole_lines((folder / FILE).read_bytes())[0]:
        if b'"model tested"' in line:
            noted = _test_digest(line) or noted
    if result.test.digest != noted:
        faults.append("result.json: its test is not the one of the ledger")
    return faults


def _test_digest(line: bytes) -> str:
    """Return the digest in a ledger's line that notes a test; empty in any other."""
    try:
        facts = json.loads(line)
        return str(facts["test"]) if facts["event"] == "model tested" else ""
    except (ValueError, LookupError, TypeError):
        return ""


def _round_closed(line: bytes) -> dict[str, Any] | None:
    """Return a ledger's line if it closes a round and holds the digest of the round's history line."""
    # Cheap first: most lines are updates.
    if b'"round closed"' not in line:
        return None
    try:
        facts = json.loads(line)
        closed = facts["event"] == "round closed" and isinstance(facts["round"], int)
        return facts if closed and facts.get("history") else None
    except (ValueError, LookupError, TypeError):
        return None


def _of_silo(path: Path, run_id: str) -> list[Anchor]:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            Anchor.parse(f"{path.name}, after round {line['round']}", str(line["anchor"]))
            for line in lines
            if line["run"] == run_id
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        hint = "Name a file that a silo's node wrote: anchors.jsonl in its state folder."
        raise CheckpointError("MDW-523", f"{path} holds no anchors: {error}.", hint) from error

"""Is a run's ledger the one that was written? Compared with what others remember of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from conf.errors import CheckpointError
from server.run.ledger import FILE, Anchor, Verdict, verify_file
from server.run.result import RunResult


def audit(folder: Path, records: Iterable[Path] = ()) -> Verdict:
    """Return what the chain of a run's `ledger.jsonl` and its anchors say.

    Anchors are that of `result.json`, the tag of the run's MLflow run where there is one, and those in `records`:
    files that silos kept (`client.node.journal`: a JSON line a round). Raises CheckpointError where one can't be read.
    """
    result = RunResult.read(folder)
    anchors = [Anchor.parse("result.json", result.ledger)] if result.ledger else []
    for path in records:
        anchors += _of_silo(path, result.run_id)
    return verify_file(folder / FILE, anchors)


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

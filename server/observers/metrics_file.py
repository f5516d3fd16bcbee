"""`metrics.jsonl`: a line per silo, round and phase, and one per round for the aggregate
(docs/results.md).

Lines are written once a second and before a round counts: to open a file for each of a thousand
silos takes longer than to judge them. What a crash loses is of a round that never counted, whose
lines a resumed run drops.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Final

from server.observers.base import Observer
from server.run.files import append_line, write_atomic
from server.run.result import TEST_PHASE, FinalTest, Metrics, RoundRecord, RunResult

SECONDS_BETWEEN: Final = 1.0


class MetricsFile(Observer):
    """Appends to a run's `metrics.jsonl`; a resumed run first drops the lines of rounds that never
    closed.
    """

    def __init__(self, folder: Path, last: RoundRecord | None = None) -> None:
        """`last` is the last closed round of a run that is resumed."""
        self._path = folder / "metrics.jsonl"
        self._last = last
        self._waiting: list[str] = []
        self._written_at = -math.inf

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Keep the lines of closed rounds only, and add what a process that was killed could not."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _outlives(line, result.rounds)]
        write_atomic(self._path, "".join(line + "\n" for line in kept))
        # The aggregate is written after the round counts, so only the last one can be missing.
        last = self._last
        if last is not None and not any(_is_aggregate_of(line, last.round) for line in kept[-1:]):
            self.round_closed(last)

    def reply(self, round: int, phase: str, silo: str, metrics: Metrics) -> None:
        """Write a silo's metrics; those of the test are written once all of it is there."""
        if phase == TEST_PHASE:
            return
        self._add({"round": round, "silo": silo, "phase": phase}, metrics)
        if time.monotonic() - self._written_at >= SECONDS_BETWEEN:
            self._write()

    def round_closing(self, record: RoundRecord) -> None:
        """Write what the silos have said, before the round counts."""
        self._write()

    def round_closed(self, record: RoundRecord) -> None:
        """Write the aggregate, `silo` being null."""
        self._add({"round": record.round, "silo": None, "phase": "aggregate"}, record.aggregate)
        self._write()

    def model_tested(self, test: FinalTest) -> None:
        """Write each silo's metrics on its test split, and those of all together, `silo` being null."""
        for silo, metrics in test.metrics.items():
            self._add({"round": test.round, "silo": silo, "phase": TEST_PHASE}, metrics)
        self._add({"round": test.round, "silo": None, "phase": TEST_PHASE}, test.final)
        self._write()

    def close(self) -> None:
        """Write what a round that did not close has said."""
        self._write()

    def _add(self, line: dict[str, Any], metrics: Metrics) -> None:
        finite = {
            k: v if math.isfinite(v) else None
            for k, v in metrics.items()
            if v is not None and k not in line
        }
        self._waiting.append(json.dumps(line | finite, allow_nan=False))

    def _write(self) -> None:
        self._written_at = time.monotonic()
        lines, self._waiting = self._waiting, []
        if lines:
            append_line(self._path, "\n".join(lines))


def _outlives(line: str, rounds: int) -> bool:
    """Return whether a line stays when a run is resumed after so many rounds.

    Not one that a crash cut off, nor that of a round that never closed, nor a test's: the run has
    its test again at its new end.
    """
    try:
        facts = json.loads(line)
        return 0 < int(facts["round"]) <= rounds and facts["phase"] != TEST_PHASE
    except (ValueError, LookupError, TypeError):
        return False


def _is_aggregate_of(line: str, round: int) -> bool:
    facts = json.loads(line)
    return bool(facts["round"] == round and facts.get("phase") == "aggregate")

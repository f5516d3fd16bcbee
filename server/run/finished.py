"""A finished run, for Python: its result, its metrics as rows, its model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from server.run.history import rounds_of
from server.run.result import RoundRecord, RunResult
from server.scoring.evaluation import load_model


@dataclass(frozen=True)
class FinishedRun:
    """What `simulate` returns: `result` is the content of `result.json`, `folder` where it lies."""

    result: RunResult
    folder: Path

    @cached_property
    def rounds(self) -> list[RoundRecord]:
        """The records of `history.jsonl`, one a closed round.

        Raises CheckpointError where it was changed.
        """
        return list(rounds_of(self.folder, self.result))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per round and silo, aggregate rows with silo None:
        `pandas.DataFrame(run.rows())`.
        """
        rows: list[dict[str, Any]] = []
        for record in self.rounds:
            rows.append({"round": record.round, "silo": None, **record.aggregate})
            for silo in record.cohort:
                train = {
                    f"train_{name}": value for name, value in record.train.get(silo, {}).items()
                }
                rows.append(
                    {"round": record.round, "silo": silo, **record.metrics.get(silo, {}), **train}
                )
        return rows

    def model(self) -> nn.Module:
        """Return the trained model in evaluation mode."""
        return load_model(self.folder)

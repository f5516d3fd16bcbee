"""The runs of a folder such as `outputs/`, each in a line, whatever state it is in.

It reads each run's `result.json` alone and imports nothing heavy: a list must be there at once. A
run that is damaged has a line that says so; it hides no other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conf.errors import CheckpointError, ConfigError
from server.report.headline import final_value
from server.run.history import FILE as HISTORY
from server.run.result import RunResult
from server.run.shown import LOSS_ALONE, partial_sentence, score

QUIET_SECONDS: Final = 60.0
"""After which a run that is running and writes nothing is told to be quiet: it may have been
killed.
"""
SIGNS: Final = ("result.json", HISTORY, "metrics.jsonl")
"""Files that a run writes to while it is running."""
DAMAGED: Final = "damaged"
NO_RESULT: Final = "no result yet"
"""Of a run that is only just beginning, or was killed then."""


@dataclass(frozen=True)
class ListedRun:
    """One run in a list: what its result says; of one that can't be read, why.

    `metric` and `value` are the headline of its final evaluation, where there is one, and `score`
    both for people; `quiet` says for how many seconds a run that is running has written nothing.
    """

    id: str
    folder: Path
    status: str
    task: str = ""
    strategy: str = ""
    rounds: int = 0
    silos: int = 0
    metric: str = ""
    value: float | None = None
    score: str = ""
    seconds: float = 0.0
    started: str = ""
    problem: str = ""
    quiet: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return dataclasses.asdict(self) | {"folder": str(self.folder)}


def list_runs(output: Path) -> list[ListedRun]:
    """Return the runs in a folder and in the sweeps below it, the last one started first.

    Raises ConfigError MDW-130 where the folder can't be read.
    """
    try:
        folders = list(run_folders(output))
    except OSError as error:
        raise ConfigError(
            "MDW-130",
            f"run.output={output}: {error.strerror or error}.",
            "Name the folder that holds the runs: run.output=FOLDER.",
        ) from error
    runs = [_listed(folder, folder.relative_to(output).as_posix()) for folder in folders]
    # Those that can't be read come last, by name.
    return sorted(sorted(runs, key=lambda run: run.id), key=lambda run: run.started, reverse=True)


def run_folders(output: Path) -> Iterator[Path]:
    """Yield the folders of runs in a folder, and of those one level below: a sweep's.

    Raises OSError where the folder itself can't be read.
    """
    for folder in sorted(output.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if is_run(folder):
            yield folder
            continue
        try:
            below = sorted(folder.iterdir())
        except OSError:
            # Somebody else's folder, which this user may not read.
            continue
        yield from (one for one in below if is_run(one))


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return (folder / "config.yaml").is_file() or (folder / "result.json").is_file()


def _listed(folder: Path, name: str) -> ListedRun:
    if not (folder / "result.json").exists():
        return ListedRun(name, folder, NO_RESULT)
    try:
        result = RunResult.read(folder)
    except CheckpointError as error:
        return ListedRun(name, folder, DAMAGED, problem=f"{error.code} {error.message}")
    try:
        return _of_result(result, folder, name)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        # JSON of the right keys, with values of another kind.
        return ListedRun(name, folder, DAMAGED, problem=f"result.json: {error}")


def _of_result(result: RunResult, folder: Path, name: str) -> ListedRun:
    final = final_value(result, {})
    return ListedRun(
        id=name,
        folder=folder,
        status=str(result.status),
        task=str(result.task),
        strategy=str(result.strategy),
        rounds=int(result.rounds),
        silos=len(result.silos),
        metric=final[0] if final else "",
        value=final[1] if final else None,
        score=_score(result, final[0]) if final else "",
        seconds=float(result.seconds),
        started=str(result.started),
        problem=str(result.error.get("code", "")) if result.error else "",
        quiet=_quiet(folder) if result.status == "running" else None,
    )


def _score(result: RunResult, metric: str) -> str:
    """Return a metric at the end for people, with what it lacks where silos withheld counts."""
    sentence = partial_sentence(result.test)
    # The loss is a sum that no owner withholds in part.
    whole = not sentence or (metric in LOSS_ALONE and "but the loss" in sentence)
    note = "" if whole else ", partial"
    return f"{metric} {score(result.final, metric, 4)}{note}"


def _quiet(folder: Path) -> float | None:
    """Return for how long a run has written nothing; None where that is not long."""
    written_at = [(folder / name).stat().st_mtime for name in SIGNS if (folder / name).is_file()]
    silent = time.time() - max(written_at, default=0.0)
    return silent if silent > QUIET_SECONDS else None

"""What may be deleted of a run, by kind, and what stays: what proves it.

    checkpoints    models and states between rounds; without them a run can't be resumed
    logs           the folder `logs`
    errors         the text of the error that a run ended with; its code stays

The ledger, the history, the result, the configuration and the model stay: the ledger holds their
digests. A line of the ledger says what was deleted, and why.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from azureml_jobs.storage.base import Store
from conf.files.whole import write_atomic
from server.run.ledger import Ledger
from server.run.verdict import FILE, facts_of

CHECKPOINTS: Final = "checkpoints"
LOGS: Final = "logs"
ERRORS: Final = "errors"
KINDS: Final = (CHECKPOINTS, LOGS, ERRORS)
FORGOTTEN: Final = "forgotten"
"""What stands in the place of a text that was deleted."""
_FOLDERS: Final = {CHECKPOINTS: "checkpoints", LOGS: "logs"}


@dataclass
class Forgotten:
    """What was deleted: the kinds of which there was something, files and bytes."""

    what: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0

    def add(self, kind: str, size: int) -> None:
        """Count one file."""
        if kind not in self.what:
            self.what.append(kind)
        self.files += 1
        self.bytes += size

    def __str__(self) -> str:
        if not self.files:
            return "nothing of that kind was there"
        return f"{', '.join(self.what)} deleted: {self.files} files, {self.bytes} bytes"


def forget_run(
    run_id: str, folder: Path, store: Store | None, kinds: Collection[str], why: str
) -> Forgotten:
    """Delete some kinds of what a run has left in its folder and, where it has one, in its own part
    of a `store`; note it in its ledger.

    The ledger is open meanwhile, so that no process writes to the run. Raises CheckpointError
    MDW-521 where one does.
    """
    done = Forgotten()
    with tempfile.TemporaryDirectory() as aside:
        # The folder may be on another machine: the lines are in the store, and made again here.
        here = folder if folder.is_dir() else Path(aside)
        with Ledger(here / FILE, run_id, store) as ledger:
            if folder.is_dir():
                _forget_in_folder(folder, kinds, done)
            if store is not None:
                _forget_in_store(store, kinds, done)
            if done.files:
                ledger.append(
                    "forgotten", what=done.what, files=done.files, bytes=done.bytes, why=why
                )
                ledger.seal()
    return done


def _forget_in_folder(folder: Path, kinds: Collection[str], done: Forgotten) -> None:
    for kind, name in _FOLDERS.items():
        if kind in kinds:
            _delete_below(folder / name, kind, done)
    if ERRORS not in kinds:
        return
    path = folder / "result.json"
    if not path.is_file():
        return
    result = json.loads(path.read_bytes())
    error = result.get("error")
    if error and error.get("message") != FORGOTTEN:
        done.add(ERRORS, len(error["message"]))
        error["message"] = FORGOTTEN
        write_atomic(path, json.dumps(result, indent=1).encode())
        # The page says it too; `meadow report` writes it anew.
        (folder / "report.html").unlink(missing_ok=True)


def _delete_below(folder: Path, kind: str, done: Forgotten) -> None:
    # Deepest first, so that each folder is empty when its turn comes.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
            continue
        size = path.lstat().st_size
        path.unlink()
        done.add(kind, size)
    if folder.is_dir():
        folder.rmdir()


def _forget_in_store(store: Store, kinds: Collection[str], done: Forgotten) -> None:
    if CHECKPOINTS not in kinds:
        return
    for name in store.list(f"{CHECKPOINTS}/"):
        size = len(store.read(name))
        store.delete(name)
        done.add(CHECKPOINTS, size)


def ended_at(lines: Sequence[bytes]) -> float | None:
    """Return when a run ended, in seconds since 1970, by the lines of its ledger; None where it has
    not, or was resumed since.
    """
    for line in reversed(lines):
        facts = facts_of(line) or {}
        if facts.get("event") in ("run started", "run resumed"):
            return None
        if facts.get("event") == "run finished" and isinstance(facts.get("time"), int | float):
            return float(facts["time"])
    return None


def due(lines: Sequence[bytes], days: Mapping[str, float | None], now: float) -> list[str]:
    """Return the kinds whose lifetime is over, and which the ledger does not call forgotten since
    the run's end.
    """
    ended = ended_at(lines)
    if ended is None:
        return []
    gone: set[str] = set()
    for line in reversed(lines):
        facts = facts_of(line) or {}
        if facts.get("event") == "run finished":
            break
        if facts.get("event") == "forgotten":
            gone.update(map(str, facts.get("what", ())))
    return [
        kind
        for kind, lifetime in days.items()
        if lifetime is not None and kind not in gone and now - ended >= lifetime * 86400
    ]

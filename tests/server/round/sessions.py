"""A session without a command line: what the round loop needs of one, in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord

from azureml_jobs.storage.folder_store import FolderStore
from conf.schema import Conf
from server.observers.base import Observer
from server.run.checkpoint import Checkpoints, RunState
from server.run.history import FILE, History, Mark
from server.run.ledger import Ledger
from server.run.result import RunResult
from server.run.run_folder import RunFolder
from server.session import Session


def session_in(folder: Path, conf: Conf, observer: Observer | None = None) -> Session:
    """Return a session at round 0 whose model is the array `w`, three zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    result = RunResult(
        run_id="run", mode="simulate", task=conf.task.name, strategy=conf.strategy.name, silos=[]
    )
    return Session(
        conf=conf,
        members=[],
        folder=RunFolder(folder),
        state=RunState(0, ArrayRecord({"w": Array(np.zeros(3, np.float32))})),
        result=result,
        checkpoints=Checkpoints(FolderStore(folder)),
        history=History(folder / FILE, Mark()),
        ledger=Ledger(folder / "ledger.jsonl", "run"),
        observer=observer or Observer(),
    )


def weight(state: RunState) -> float:
    """Return the model's first number."""
    return float(state.arrays["w"].numpy()[0])

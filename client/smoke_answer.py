"""What a silo answers to `task=smoke`: what it was sent, turned round, and what it says of its machine.

Nothing of it is about the silo's data but whether its folder is there. No path and no name leaves.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from client.capacity import cores, memory
from client.device import choose
from client.own_software import software
from conf.errors import WireError
from conf.files.homes import expanded
from conf.schema import RunScope, Silo
from strategies.wire import protocol
from strategies.wire.objects import array_of

TASK: Final = "smoke"


def answer(sent: ArrayRecord, scope: RunScope, silo: Silo) -> RecordDict:
    """Return as many bytes as were sent, in reverse, and what this machine is.

    Raises WireError MDW-601 in a run of another task.
    """
    if scope.task.name != TASK:
        raise WireError(
            "MDW-601",
            f"The server asks {silo.name} what its machine is, in a run of {scope.task.name}.",
            "That is for task=smoke alone.",
        )
    back = {name: values[::-1].copy() for name, values in protocol.to_numpy(sent).items()}
    arrays = ArrayRecord({name: array_of(values) for name, values in back.items()})
    return RecordDict({protocol.ARRAYS: arrays, protocol.FACTS: _facts(scope, silo)})


def _facts(scope: RunScope, silo: Silo) -> ConfigRecord:
    runs = software(scope)
    return ConfigRecord(
        {
            "device": str(choose(silo.device or scope.trainer.device)),
            "cores": cores(),
            "memory": memory(),
            "disk": shutil.disk_usage(Path.cwd()).free,
            "data": data_in_words(silo.data.root),
            "clock": time.time(),
            "meadow": runs.meadow,
            "python": runs.python,
            "torch": runs.torch,
        }
    )


def data_in_words(root: str | None) -> str:
    """Return what can be said of a silo's data without looking into it."""
    if root is None:
        return "not set"
    path = expanded(root)
    if not path.exists():
        return "not there"
    if not os.access(path, os.R_OK):
        return "may not be read"
    if path.is_dir() and next(path.iterdir(), None) is None:
        return "empty"
    return "there"

"""Who this process is to Flower: its `Message` can be made only by a process that is something."""

from __future__ import annotations

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

Identity = tuple[int | None, int | None, int | None]


def take_identity(run_id: int) -> Identity:
    """Make this process the server of a run; return who it was before."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return before


def give_identity_back(before: Identity) -> None:
    """Be again who `take_identity` returned."""
    for name, value in zip(("_task_id", "_run_id", "_node_id"), before, strict=True):
        # Its own setters take no None.
        setattr(TaskIdentity, name, value)

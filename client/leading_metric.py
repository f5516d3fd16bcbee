"""Which metric of a task comes first, where the configuration says it."""

from __future__ import annotations

from client.tasks.base import Task
from conf.errors import ConfigError
from conf.schema_keys import nearest


def lead_with(task: Task, name: str) -> None:
    """Make a metric that a task shows the first of them: headline of tables, early stopping and
    `run.keep=best`. Nothing without a name; raises ConfigError MDW-186 for one that it does not show.
    """
    if not name:
        return
    if name not in task.shown:
        raise ConfigError(
            "MDW-186",
            f"task.headline={name}: the task shows {', '.join(task.shown)}.",
            nearest(name, task.shown),
        )
    first = {name: task.shown[name]}
    # Of this task alone: its class has the order for all others.
    task.shown = first | dict(task.shown)  # type: ignore[misc]

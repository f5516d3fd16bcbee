"""The model that a task brings itself."""

from __future__ import annotations

from torch import nn

from client.tasks.base import Task
from conf.schema import ModelConf


def build(task: Task, conf: ModelConf) -> nn.Module:
    """Return a new model of the task; raises DataError MDW-210 where it brings none."""
    return task.model(conf)

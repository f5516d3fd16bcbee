"""The tasks of this tree, one file each: model input, data contract, loss and metrics."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from client.registry import module_named
from client.tasks.base import Task
from conf.errors import DataError
from conf.schema import Silo


def task_named(name: str) -> Task:
    """Return the task of `client/tasks/<name>.py`.

    Raises ConfigError MDW-102 for a name that is not there.
    """
    task: Task = module_named(sys.modules[__name__], name, "task").task
    return task


def class_counts(task: Task, silos: Sequence[Silo]) -> dict[str, list[int]]:
    """Return the training examples of each class at each silo, for a machine that can see them all.

    Empty for a task without classes; a silo whose data has no labels is left out.
    """
    counts: dict[str, list[int]] = {}
    classes = task.contract.classes if task.contract else ()
    if not classes:
        return counts
    for silo in silos:
        try:
            labels = task.train_labels(silo)
        except DataError as error:
            raise DataError(error.code, f"{silo.name}: {error.message}", error.hint) from error
        if labels is not None:
            counts[silo.name] = np.bincount(labels, minlength=len(classes)).tolist()
    return counts

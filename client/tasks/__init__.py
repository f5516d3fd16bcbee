"""The tasks of this tree, one class a file; and those from outside it, by name and digest."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np

from client.registry import module_named
from client.tasks.base import Task
from conf.errors import ConfigError, DataError
from conf.schema import Silo, TaskConf
from conf.targets import known
from conf.targets.signature import call


def task_of(conf: TaskConf) -> Task:
    """Return the task that a configuration names: the class of `client/tasks/<name>.py`, or one
    from outside this tree, made with the arguments. Made once per process.

    Raises ConfigError: MDW-102 for a name that is not there, MDW-170 to MDW-176 for a class or
    arguments that will not do; SiloError MDW-346 or MDW-347 for code that this process was not
    started with.
    """
    return _made(conf.name, conf.code, json.dumps(_arguments(conf), sort_keys=True))


def task_named(name: str) -> Task:
    """Return the task of `client/tasks/<name>.py`, made without arguments; see `task_of`."""
    return task_of(TaskConf(name=name))


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


def _arguments(conf: TaskConf) -> dict[str, Any]:
    """Return a task's arguments: those of its own dataclass, or `args` of one without."""
    own = {f.name for f in fields(conf)} - {f.name for f in fields(TaskConf)}
    return {**conf.args, **{name: getattr(conf, name) for name in own}}


# A task keeps what it read of a public set, so there is one of each kind; few kinds at a time.
@lru_cache(maxsize=4)
def _made(name: str, code: str, args: str) -> Task:
    made = _checked(known.loaded("task", name, code), name) if code else _maker_in(name)
    task: Task = call(made, json.loads(args), "task.args")
    task.name = name
    return task


def _maker_in(name: str) -> Any:
    """Return the one task that a module of this package defines, or its `build`, where what it is
    depends on the arguments.
    """
    module = module_named(sys.modules[__name__], name, "task")
    build = getattr(module, "build", None)
    if build is not None:
        return build
    found = [value for value in vars(module).values() if _is_task_of(value, module.__name__)]
    (task,) = found  # one task a file, tests/client/test_registry.py
    return _checked(task, name)


def _is_task_of(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value.__module__ == module


def _checked(cls: Any, name: str) -> type[Task]:
    """Raise ConfigError MDW-172 where a class is no task, or lacks what a task has to say."""
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        what = f"The task {name} is no class derived from meadow.Task."
        raise ConfigError("MDW-172", what, "Name a class that is.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        what = f"The task {name} does not say: {missing}."
        raise ConfigError("MDW-172", what, "Add a method for each to the class.")
    return cls

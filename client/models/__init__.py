"""The models of this tree, one file each; their first weights come from a seed."""

from __future__ import annotations

import sys

import torch
from torch import nn

from client.registry import module_named
from client.tasks.base import Contract, Task
from conf.errors import DataError
from conf.schema import ModelConf

OF_THE_TASK = "task"
"""The name of the model that a task brings itself."""


def build_model(conf: ModelConf, task: Task, seed: int) -> nn.Module:
    """Return the model of `client/models/<name>.py` on the CPU, with weights drawn from `seed`
    alone.

    The process's own random state is left as it was. Raises ConfigError MDW-102 for a name that is
    not there, and DataError: MDW-207 where the task's examples do not fit the model, MDW-210 where
    the task's own model is asked for and it brings none, MDW-212 where it has no contract.
    """
    build = module_named(sys.modules[__name__], conf.name, "model").build
    fits = task if conf.name == OF_THE_TASK else _contract(task, conf.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs as well
        model: nn.Module = build(conf, fits)
    return model


def _contract(task: Task, model: str) -> Contract:
    """Return what a model of this tree is built from."""
    if task.contract is None:
        raise DataError(
            "MDW-212",
            f"model={model}: the task {task.name} has no contract that says what its examples are.",
            "Use the task's own model (model=task), or give the task a contract.",
        )
    if task.contract.dense:
        raise DataError(
            "MDW-207",
            f"model={model} gives one answer an example, the task {task.name} needs one for each"
            " element of it.",
            "Use the task's own model (model=task).",
        )
    return task.contract

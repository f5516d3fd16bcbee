"""The models of this tree, one file each, a task's own, and those from outside; their first weights
come from a seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from client.registry import module_named
from client.tasks.base import Contract, Task
from conf.errors import ConfigError, DataError
from conf.schema import ExternalModelConf, ModelConf
from conf.targets import known
from conf.targets.signature import call

OF_THE_TASK = "task"
"""The name of the model that a task brings itself."""


def build_model(conf: ModelConf, task: Task, seed: int) -> nn.Module:
    """Return the model of `client/models/<name>.py`, or one from outside this tree, on the CPU, with
    weights drawn from `seed` alone.

    The process's own random state is left as it was. Raises ConfigError MDW-102 for a name that is
    not there, MDW-170 to MDW-176 for a class, function or arguments that will not do; SiloError
    MDW-346 or MDW-347 for code that this process was not started with; and DataError: MDW-207 where
    the task's examples do not fit the model, MDW-210 where the task's own model is asked for and it
    brings none, MDW-212 where it has no contract.
    """
    # Before the seed: what is drawn while a module is imported must not shift the weights.
    build = _builder(conf, task)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs as well
        return build()


def _builder(conf: ModelConf, task: Task) -> Callable[[], nn.Module]:
    if isinstance(conf, ExternalModelConf):
        outside = known.loaded("model", conf.name, conf.code)
        return lambda: _from_outside(outside, conf, task)
    build: Callable[..., nn.Module] = module_named(sys.modules[__name__], conf.name, "model").build
    fits = task if conf.name == OF_THE_TASK else _contract(task, conf.name)
    return lambda: build(conf, fits)


def _from_outside(build: Any, conf: ExternalModelConf, task: Task) -> nn.Module:
    if not callable(build):
        what = f"The model {conf.name} is a {type(build).__name__}."
        raise ConfigError("MDW-172", what, "Name a class or function that makes a torch.nn.Module.")
    made = call(build, conf.args, "model.args", {"contract": task.contract})
    if not isinstance(made, nn.Module):
        what = f"The model {conf.name} makes a {type(made).__name__}, no torch.nn.Module."
        raise ConfigError("MDW-172", what, "Return the model.")
    return made


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

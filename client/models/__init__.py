"""The models of this tree, one file each, a task's own, and those from outside; their first weights
come from a seed.

All but the task's own are made in one way: by calling a class or function with plain arguments by
their names, and with the task's contract where it takes one. In `client/models/NAME.py` that is
`build`; its arguments are the fields of its dataclass in `conf.schema`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from client.input_layer import WithInputLayer
from client.models import task as of_the_task
from client.registry import module_named
from client.tasks.base import Task
from conf.errors import ConfigError, DataError, MeadowError
from conf.schema import ExternalModelConf, ModelConf
from conf.targets import known
from conf.targets.signature import arguments_of, call, parameters

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


def bytes_of_model(conf: ModelConf, task: Task) -> int | None:
    """Return the bytes of a model's parameters and buffers without taking memory for them; None
    where code from outside the tree can't be run so.

    Raises what `build_model` raises.
    """
    build = _builder(conf, task)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = build()
    except MeadowError:
        raise
    except Exception:
        # A model that looks at its own values, say: whoever wrote it is trusted with memory too.
        return None
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def _builder(conf: ModelConf, task: Task) -> Callable[[], nn.Module]:
    if conf.name == OF_THE_TASK:
        return partial(of_the_task.build, task, conf)
    build = _named(conf)
    args = arguments_of(conf, ModelConf)
    if task.contract is None and _needs_contract(build):
        raise DataError(
            "MDW-212",
            f"model={conf.name}: the task {task.name} has no contract that says what its examples are.",
            "Use the task's own model (model=task), or give the task a contract.",
        )

    def made() -> nn.Module:
        layer = task.input_layer()
        contract = task.contract
        if layer is not None and contract is not None:
            contract = replace(contract, shape=layer.shape)
        model = _module(call(build, args, "model.args", {"contract": contract}), conf.name)
        return model if layer is None else WithInputLayer(layer, model)

    return made


def _named(conf: ModelConf) -> Callable[..., Any]:
    """Return the class or function that makes a model: of this tree by its name, or from outside."""
    if not isinstance(conf, ExternalModelConf):
        build: Callable[..., Any] = module_named(sys.modules[__name__], conf.name, "model").build
        return build
    outside = known.loaded("model", conf.name, conf.code)
    if not callable(outside):
        what = f"The model {conf.name} is a {type(outside).__name__}."
        raise ConfigError("MDW-172", what, "Name a class or function that makes a torch.nn.Module.")
    made: Callable[..., Any] = outside
    return made


def _needs_contract(build: Callable[..., Any]) -> bool:
    wanted = parameters(build).get("contract")
    return wanted is not None and wanted.default is wanted.empty


def _module(made: object, name: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        what = f"The model {name} makes a {type(made).__name__}, no torch.nn.Module."
        raise ConfigError("MDW-172", what, "Return the model.")
    return made

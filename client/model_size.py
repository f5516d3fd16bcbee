"""How much memory a run's model takes, known before any of it is taken.

MDW-349 more threads or processes than the machine has     MDW-350 a model that is too large
"""

from __future__ import annotations

from typing import Final

from client import capacity
from client.models import bytes_of_model
from client.tasks.base import Task
from conf.errors import SiloError
from conf.schema import RunScope, Silo, TrainerConf

COPIES: Final = 4
"""The model, its gradients, the weights that came, and those that go."""
STATES: Final = {"sgd": 1, "adam": 2, "adamw": 2}
"""What an optimizer keeps beside each weight, in copies of the model."""
A_CORE: Final = 4
"""Threads or processes that a run may ask for, for each core of the machine."""
AT_LEAST: Final = 16
MIB: Final = 2**20


def check_model(scope: RunScope, task: Task, silo: Silo) -> None:
    """Raise SiloError MDW-350 where the run's model is larger than the silo's owner allows, or needs
    more memory in training than this process may take.

    The model is made on torch's meta device, where tensors have shapes and no memory. One from outside
    the tree that can't be made there is not measured: its code is the silo's own.
    """
    size = bytes_of_model(scope.model, task)
    if size is None:
        return
    most = silo.policy.model_mib_at_most
    if most is not None and size > most * MIB:
        said = f"{capacity.readable(size)}, and its owner allows {most} MiB"
        raise _too_large(scope, silo, said)
    needed = size * (COPIES + STATES.get(scope.trainer.optimizer, 2))
    if needed > capacity.memory():
        said = f"{capacity.readable(size)}, {capacity.readable(needed)} in training"
        raise _too_large(scope, silo, f"{said}, of {capacity.readable(capacity.memory())} there")


def check_machine(trainer: TrainerConf, silo: Silo) -> None:
    """Raise SiloError MDW-349 where a run asks for more threads or processes than the machine has."""
    most = max(AT_LEAST, A_CORE * capacity.cores())
    asked = {}
    if silo.machine.loader_workers is None:
        asked["trainer.loader_workers"] = trainer.loader_workers
    if silo.threads is None:
        asked["trainer.threads"] = trainer.threads
    for key, count in asked.items():
        if count > most:
            raise SiloError(
                "MDW-349",
                f"{silo.name} has {capacity.cores()} cores, and {key}={count} asks for more.",
                f"Set it to {most} or less.",
                {"asked": f"{key}={count}", "most": most},
            )


def _too_large(scope: RunScope, silo: Silo, said: str) -> SiloError:
    return SiloError(
        "MDW-350",
        f"The model {scope.model.name} is too large for {silo.name}: {said}.",
        "Ask for a smaller model.",
        {"size": said},
    )

"""What a client process keeps between rounds: its task, data, model and device.

Data is kept as long as its files are the same (`client.data_files`): a silo that works for weeks
trains on what its owner has put there since, from the next round on.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from client.compute import resolved
from client.data_files import TRIES, Files, changing, files_at, seen_anew
from client.device import choose
from client.loop import prepare
from client.model_size import check_model
from client.models import build_model
from client.placement import check_there
from client.tasks import task_of
from client.tasks.base import Data, Task
from conf.combinations import refused_precisions
from conf.schema import MachineConf, ModelConf, RunScope, Silo, TaskConf, TrainerConf

log = logging.getLogger(__name__)


@dataclass
class Loaded:
    """A task with one silo's data, and a model ready for its weights."""

    task: Task
    data: Data
    model: nn.Module
    trainer: TrainerConf
    """The run's, as it is carried out here (`client.compute`)."""
    files: Files = ()
    """What the data was read from, as it was then."""


Kind = tuple[ModelConf, TaskConf]
"""What a model is built of."""
Form = tuple[str, bool, str, bool]
"""Where a model in memory is and how it was prepared: device, channels_last, compile, and whether
gradients of several batches are added up.
"""

_data: dict[str, tuple[TaskConf, Silo, Files, Data]] = {}
_models: list[tuple[Kind, dict[Form, nn.Module]]] = []
_tasks: list[tuple[TaskConf, Task]] = []
_trainers: list[tuple[RunScope, MachineConf, torch.device, TrainerConf]] = []
"""How the run in progress trains, with a silo's own settings on a device."""
_precisions: list[tuple[RunScope, dict[str, str]]] = []
"""What the run in progress refuses, and why: the same for all its messages."""


def load_cached(scope: RunScope, silo: Silo) -> Loaded:
    """Return the silo's data and a model of the run's kind, loaded at the first call, and data again
    where its files have changed.

    One entry a silo, and a model for each device, so that a worker that serves many silos on one
    device holds one model.
    Raises DataError MDW-216 where the files change all the time.
    """
    # First of all: what can't be used is refused before data is read.
    trainer = trainer_here(scope, silo)
    task = _task(scope.task)
    cached = _data.get(silo.name)
    files = files_at(silo.data.root)
    if cached is not None and cached[:2] == (scope.task, silo) and cached[2] != files:
        log.warning("the data of %s has changed since it was read, and is read again", silo.name)
    if cached is None or cached[:3] != (scope.task, silo, files):
        cached = (scope.task, silo, *_read(task, silo))
        _data[silo.name] = cached
    torch.set_num_threads(silo.threads or scope.trainer.threads)
    return Loaded(task, cached[3], _model(scope, trainer, task, silo), trainer, cached[2])


def trainer_here(scope: RunScope, silo: Silo) -> TrainerConf:
    """Return the run's trainer as it is carried out at this silo.

    Raises SiloError MDW-344 where a GPU that it was given is not there, MDW-363 where its precision
    can't be had.
    """
    named = silo.device or scope.trainer.device
    check_there(silo, named)
    device = choose(named)
    for of, machine, on, trainer in _trainers:
        if of is scope and machine == silo.machine and on == device:
            return trainer
    trainer = resolved(scope.trainer, silo.machine, device, _refused(scope))
    if scope.privacy.is_private:
        # The gradient of each example is taken in fp32, and lies as the weights do.
        trainer = dataclasses.replace(trainer, precision="fp32", channels_last=False)
    # Of the run in progress alone.
    _trainers[:] = [one for one in _trainers if one[0] is scope]
    _trainers.append((scope, silo.machine, device, trainer))
    return trainer


def _read(task: Task, silo: Silo) -> tuple[Files, Data]:
    """Return a silo's data with the files that it is of: the same before and after it was read."""
    for _ in range(TRIES):
        files = seen_anew(silo.data.root)
        data = task.data(silo)
        if seen_anew(silo.data.root) == files:
            return files, data
    raise changing(silo.data.root)


def let_go(silos: Iterable[str]) -> None:
    """Forget the data of silos that this process does not serve any more."""
    for name in silos:
        _data.pop(name, None)


def _model(scope: RunScope, trainer: TrainerConf, task: Task, silo: Silo) -> nn.Module:
    kind = (scope.model, scope.task)
    if not _models or _models[0][0] != kind:
        # One kind at a time: a worker must not pile up the models of a sweep.
        _models[:] = [(kind, {})]
    forms = _models[0][1]
    device = silo.device or scope.trainer.device
    form = (device, bool(trainer.channels_last), trainer.compile, trainer.accumulate > 1)
    if form not in forms:
        check_model(scope, task, silo)
        forms[form] = prepare(build_model(scope.model, task, seed=0), trainer, silo.device)
    return forms[form]


def _task(conf: TaskConf) -> Task:
    # Looked up once and not for each message: the look lists a folder.
    if not _tasks or _tasks[0][0] != conf:
        _tasks[:] = [(conf, task_of(conf))]
    return _tasks[0][1]


def _refused(scope: RunScope) -> dict[str, str]:
    """Return the precisions that a run's other choices refuse, each with the reason."""
    if not _precisions or _precisions[0][0] is not scope:
        _precisions[:] = [(scope, {n: rule.why for n, rule in refused_precisions(scope).items()})]
    return _precisions[0][1]

"""Which arrays of a model are trained and which are frozen, as the model is when it is built.

Both sides ask it of the run's configuration and not of a model that is being trained: what a silo's
half of an algorithm freezes for a pass is no matter of what travels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from client.models import build_model
from client.tasks.base import Task
from conf.schema import ModelConf, TaskConf


class ModelParts(NamedTuple):
    """Names of a model's parameters; its other arrays are buffers."""

    trained: frozenset[str]
    """Also the further names of a weight that has several: each of them travels."""
    frozen: frozenset[str]
    """Built with `requires_grad=False`; further names too."""
    parameters: frozenset[str]
    """Both, each weight under its first name alone."""


Kind = tuple[ModelConf, TaskConf]
_last: list[tuple[Kind, ModelParts]] = []


def model_parts(conf: ModelConf, task_conf: TaskConf, task: Task) -> ModelParts:
    """Return the parts of the model that a configuration builds; raises what `build_model` raises."""
    kind = (conf, task_conf)
    for known, parts in _last:
        if known == kind:
            return parts
    parts = _built(conf, task)
    # Of one run at a time.
    _last[:] = [(kind, parts)]
    return parts


def _built(conf: ModelConf, task: Task) -> ModelParts:
    try:
        # On torch's device of shapes alone nothing is allocated or drawn.
        with torch.device("meta"):
            model = build_model(conf, task, seed=0)
    except Exception:
        # Whatever a model of somebody's own needs numbers for while it is built.
        model = build_model(conf, task, seed=0)
    named = list(model.named_parameters(remove_duplicate=False))
    return ModelParts(
        frozenset(name for name, weight in named if weight.requires_grad),
        frozenset(name for name, weight in named if not weight.requires_grad),
        frozenset(name for name, _ in model.named_parameters()),
    )

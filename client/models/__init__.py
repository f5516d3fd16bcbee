"""The models of this tree, one file each; their first weights come from a seed."""

from __future__ import annotations

import sys

import torch
from torch import nn

from client.registry import module_named
from client.tasks.base import Contract
from conf.schema import ModelConf


def build_model(conf: ModelConf, contract: Contract, seed: int) -> nn.Module:
    """Return the model of `client/models/<name>.py` on the CPU, with weights drawn from `seed`
    alone.

    The process's own random state is left as it was. Raises ConfigError MDW-102 for a name that is
    not there, and DataError MDW-207 where the task's examples do not fit the model.
    """
    build = module_named(sys.modules[__name__], conf.name, "model").build
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs as well
        model: nn.Module = build(conf, contract)
    return model

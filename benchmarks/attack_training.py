"""What the attacks of `attacks.py` are made on: sets as rows of numbers, and ways to train on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from client import loop
from client.policy import check_run
from client.privacy import sample_dp
from client.privacy.accountant import Release
from client.tasks import task_of
from client.tasks.base import Contract, Data
from client.tasks.kinds.classification import Classification
from conf.allowed import draft
from conf.compose import compose
from conf.errors import SiloError
from conf.schema import PolicyConf, RunScope, Silo
from conf.silos import silos
from strategies.silo_half import SiloHalf

HARDLY_ANY = 1e-9
"""A noise multiplier with which clipping is all that is left."""


class Rows(Classification):
    """A set whose examples are rows of numbers, as a model's first layer with weights gets them."""

    def __init__(self, name: str, inputs: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        self.name = name
        self.inputs = inputs
        self.labels_of_rows = labels
        self.contract = Contract((inputs.shape[1],), tuple(classes))

    def data(self, silo: Silo) -> Data:
        """There is no silo."""
        raise NotImplementedError

    def some(self, chosen: Tensor | slice) -> TensorDataset:
        """Return some of the rows with their labels."""
        return TensorDataset(self.inputs[chosen], self.labels_of_rows[chosen])


def rows_of(name: str, words: Sequence[str], most: int) -> Rows:
    """Return the first rows of the training split of a task, as one silo would have it."""
    conf = compose([*words, "federation.size=1", "data=iid"])
    task = task_of(conf.task)
    data = task.data(silos(conf)[0]).train
    assert isinstance(data, TensorDataset)
    inputs, labels = (tensor[:most] for tensor in data.tensors)
    layer = task.input_layer()
    # A table's columns become numbers by the contract's ranges, as in a private run.
    encoded = inputs if layer is None else layer(inputs)
    assert task.contract is not None
    return Rows(name, encoded.flatten(1).detach(), labels, task.contract.classes)


def sets(adult: Path | None, most: int) -> list[Rows]:
    """Return digits, and adult where its file is named."""
    found = [rows_of("digits", ["task=digits"], most)]
    if adult is not None:
        found.append(rows_of("adult", ["task=adult", f"data.root={adult}"], most))
    return found


def scope(*words: str) -> RunScope:
    """Return a run of SGD without momentum, as a silo's CPU carries it out."""
    conf = compose(["run.rounds=1", "strategy.weighting=equal", "trainer.momentum=0", *words])
    names = [field.name for field in dataclasses.fields(RunScope)]
    run = RunScope(**{name: getattr(conf, name) for name in names})
    plain = dataclasses.replace(run.trainer, precision="fp32", deterministic="true")
    return dataclasses.replace(run, trainer=plain)


Train = Callable[[nn.Module, TensorDataset, Rows, Sequence[str]], None]
"""Trains a model in place on some rows for one round, as words of a configuration say."""


def plainly(model: nn.Module, data: TensorDataset, task: Rows, words: Sequence[str]) -> None:
    """Train as a run without privacy does."""
    loop.train(model, data, task, scope(*words).trainer, seed=1)


def privately(noise: float | None, epsilon: float) -> Train:
    """Return the training of privacy=sample_dp, with a noise or with that of an epsilon."""

    def train(model: nn.Module, data: TensorDataset, task: Rows, words: Sequence[str]) -> None:
        run = scope("privacy=sample_dp", f"privacy.epsilon={epsilon}", *words)
        plan = sample_dp.plan_for(run, data)
        release = sample_dp.release_of(run, plan)
        if noise is not None:
            release = Release(plan.rate, noise, plan.steps)
        silo = Silo("north", batch_size_at_most=256)
        sample_dp.train(model, data, task, run, SiloHalf(), release, silo=silo, round=1)

    return train


def ways(epsilons: Sequence[float]) -> dict[str, Train]:
    """Return the ways of training by what the tables call them."""
    named = {"none": plainly, "clipping alone": privately(HARDLY_ANY, 4.0)}
    return named | {f"sample_dp, epsilon {e:g}": privately(None, e) for e in epsilons}


def refused() -> str:
    """Return what a silo whose owner has drafted a policy says of a lying server's run."""
    allowed = draft(compose(["task=digits", "trainer.lr=0.05"]))
    silo = Silo("north", policy=PolicyConf(version=2, allow=allowed))
    try:
        check_run(scope("trainer.lr=1e5", "trainer.batch_size=100000"), silo, 1)
    except SiloError as error:
        return error.code
    return "nothing"


def mlp(task: Rows, hidden: int, seed: int) -> nn.Module:
    """Return an honest model: one hidden layer."""
    torch.manual_seed(seed)
    first = nn.Linear(task.inputs.shape[1], hidden)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, task.contract.outputs))

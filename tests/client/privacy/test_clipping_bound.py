"""One example moves what leaves by no more than it may: every weight, no buffer, for each kind of task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from client.models import build_model
from client.privacy import sample_dp
from client.privacy.accountant import Release
from client.tasks import task_of
from client.tasks.base import Contract, Task
from client.tasks.kinds.classification import Classification
from client.tasks.kinds.multi_label import MultiLabel
from client.tasks.kinds.regression import Regression
from client.tasks.kinds.segmentation import Segmentation
from client.tasks.kinds.token_classification import TokenClassification
from conf.compose import compose
from conf.schema import Silo
from conf.silos import silos
from strategies.silo_half import SiloHalf
from tests.client.privacy.test_sample_dp import HARDLY_ANY, scope

NORTH = Silo("north")
CLIP = 0.05
EXAMPLES = 12
THREE = ("no", "yes", "may")


class Counting(nn.Module):
    """A buffer that depends on the examples that were seen, in front of a model."""

    seen: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Any:
        self.seen += inputs.double().abs().sum().float()
        return self.model(inputs)


def made(kind: type[Task], contract: Contract) -> Task:
    own = {"contract": contract, "name": kind.__name__, "data": lambda self, silo: None}
    task: Task = type("Made", (kind,), own)()
    return task


@dataclass(frozen=True)
class Family:
    """A kind of task, a model for it, its examples, and one that is far from all of them."""

    task: Task
    model: nn.Module
    examples: list[Any]
    far: Any


def rows() -> Tensor:
    return torch.randn(EXAMPLES, 4)


def classes() -> Family:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    examples = [(row, torch.tensor(i % 3)) for i, row in enumerate(rows())]
    far = (torch.full((4,), 1e4), torch.tensor(2))
    return Family(made(Classification, Contract((4,), THREE)), model, examples, far)


def images() -> Family:
    task = made(Classification, Contract((1, 8, 8), THREE))
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(32, 3))
    draws = torch.rand(EXAMPLES, 1, 8, 8)
    examples = [(row, torch.tensor(i % 3)) for i, row in enumerate(draws)]
    return Family(task, model, examples, (torch.full((1, 8, 8), -1e3), torch.tensor(1)))


def labels() -> Family:
    model = nn.Linear(4, 3)
    examples = [(row, (torch.rand(3) < 0.5).float()) for row in rows()]
    far = (torch.full((4,), -1e4), torch.ones(3))
    return Family(made(MultiLabel, Contract((4,), THREE)), model, examples, far)


def numbers() -> Family:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    examples = [(row, torch.rand(2)) for row in rows()]
    far = (torch.full((4,), 1e4), torch.full((2,), 1e6))
    return Family(made(Regression, Contract((4,), targets=("a", "b"))), model, examples, far)


def tokens() -> Family:
    model = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 3))
    draws = np.random.default_rng(0)
    lengths = range(3, 3 + EXAMPLES)
    examples = [(draws.integers(20, size=n), draws.integers(3, size=n)) for n in lengths]
    far = (np.full(200, 19), np.zeros(200, int))
    contract = Contract((None,), THREE, dense=True)
    return Family(made(TokenClassification, contract), model, examples, far)


def pixels() -> Family:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    draws = torch.rand(EXAMPLES, 1, 6, 6)
    examples = [(row, (row[0] > 0.5).long()) for row in draws]
    far = (torch.full((1, 6, 6), 1e4), torch.ones(6, 6, dtype=torch.long))
    contract = Contract((1, 6, 6), ("no", "yes"), dense=True)
    return Family(made(Segmentation, contract), model, examples, far)


def table() -> Family:
    conf = compose(["task=breast_cancer", "federation.size=3"])
    task = task_of(conf.task)
    data = task.data(silos(conf)[0]).train
    assert isinstance(data, TensorDataset)
    inputs, targets = (tensor[:EXAMPLES] for tensor in data.tensors)
    examples = list(zip(inputs, targets, strict=True))
    model = build_model(conf.model, task, 0)
    return Family(task, model, examples, (inputs[0] * 1e6, 1 - targets[0]))


FAMILIES: dict[str, Callable[[], Family]] = {
    "classes": classes,
    "images": images,
    "labels": labels,
    "numbers": numbers,
    "tokens": tokens,
    "pixels": pixels,
    "rows of a table": table,
}


class Held(Dataset[Any]):
    """Examples in a list."""

    def __init__(self, examples: list[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


def left(family: Family, examples: list[Any], clipping: str) -> dict[str, Tensor]:
    """Return what leaves after one step over all examples, without noise worth its name."""
    words = [f"trainer.batch_size={EXAMPLES}", f"privacy.clip_norm={CLIP}"]
    run = scope(*words, f"privacy.clipping={clipping}")
    net = Counting(family.model)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plan = sample_dp.plan_for(run, Held(examples))
    release = Release(plan.rate, HARDLY_ANY, plan.steps)
    sample_dp.train(net, Held(examples), family.task, run, SiloHalf(), release, silo=NORTH, round=1)
    after = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.load_state_dict(state)
    return after


@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_one_example_moves_what_leaves_by_its_clipped_gradient_at_most(
    kind: str, clipping: str
) -> None:
    torch.manual_seed(0)
    family = FAMILIES[kind]()
    before = {name: tensor.clone() for name, tensor in family.model.state_dict().items()}
    one = left(family, family.examples, clipping)
    other = left(family, [*family.examples[:-1], family.far], clipping)
    weights = [name for name, _ in Counting(family.model).named_parameters()]
    moves = {name: (other[name] - one[name]) * EXAMPLES for name in weights}
    assert all(move.isfinite().all() for move in moves.values())
    # One example is replaced by another: each has moved it by no more than the norm, lr is 1.
    whole = sum(float(move.square().sum()) for move in moves.values()) ** 0.5
    assert 0 < whole <= 2 * CLIP * 1.001 + 1e-5
    if clipping == "per_layer":
        part = CLIP / len(weights) ** 0.5
        assert all(float(move.norm()) <= 2 * part * 1.001 + 1e-5 for move in moves.values())
    for name in one.keys() - set(weights):
        assert torch.equal(one[name], other[name]), f"{name} tells of the examples"
        inner = before.get(name.removeprefix("model."))
        assert inner is None or torch.equal(one[name], inner), name

"""The learning rate over a whole run, and the optimizers by their names."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from client.optimizer import learning_rate, optimizer_of
from conf.schema import TrainerConf


def test_constant_never_changes() -> None:
    assert {learning_rate(TrainerConf(lr=0.3), p / 10) for p in range(11)} == {0.3}


def test_cosine_goes_from_the_full_rate_through_half_to_nothing() -> None:
    conf = TrainerConf(lr=0.2, schedule="cosine")
    rates = [learning_rate(conf, p) for p in (0, 1 / 3, 0.5, 1)]
    assert rates == pytest.approx([0.2, 0.15, 0.1, 0.0])


@pytest.mark.parametrize("steps", [1, 3, 7, 10])
def test_step_falls_at_each_part_s_first_step_and_at_no_other(steps: int) -> None:
    conf = TrainerConf(lr=1.0, schedule="step", schedule_gamma=0.5, schedule_steps=steps)
    halvings = [
        -math.log2(learning_rate(conf, (part + inside) / steps))
        for part in range(steps)
        for inside in (0, 0.99)
    ]
    assert halvings == [part for part in range(steps) for _ in range(2)]
    assert learning_rate(conf, 1.0) == 0.5 ** (steps - 1)


def test_weights_that_are_frozen_stay_out() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    groups = optimizer_of(net, TrainerConf(optimizer="sgd")).param_groups
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in net[1].parameters()]


@pytest.mark.parametrize(
    "name, kind",
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_each_name_gives_its_optimizer_with_its_settings(
    name: str, kind: type[torch.optim.Optimizer]
) -> None:
    optimizer = optimizer_of(
        nn.Linear(2, 2), TrainerConf(optimizer=name, lr=0.3, momentum=0.8, weight_decay=0.1)
    )
    assert isinstance(optimizer, kind)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.3, 0.1)
    assert optimizer.defaults.get("momentum", 0.8) == 0.8


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimizer_gives_the_bits_of_torch_s_own(name: str) -> None:
    conf = TrainerConf(optimizer=name, lr=0.1, weight_decay=0.01)
    stock: Any = {"sgd": SGD, "adam": Adam, "adamw": AdamW}[name]
    more = {"momentum": conf.momentum} if name == "sgd" else {}
    models = []
    for ours in (True, False):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        if ours:
            optimizer = optimizer_of(model, conf)
        else:
            optimizer = stock(
                model.parameters(), conf.lr, weight_decay=conf.weight_decay, foreach=True, **more
            )
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).square().sum().backward()
            optimizer.step()
        models.append(model.state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("sparse", [False, True])
def test_sgd_on_the_cpu_gives_the_bits_of_torch_s_own_where_gradients_come_and_go(
    momentum: float, weight_decay: float, sparse: bool
) -> None:
    if sparse and weight_decay:
        pytest.skip("torch itself can't add a decay to a sparse gradient")
    conf = TrainerConf(optimizer="sgd", lr=0.1, momentum=momentum, weight_decay=weight_decay)
    models = []
    for ours in (True, False):
        torch.manual_seed(1)
        model = nn.ModuleDict(
            {
                "words": nn.Embedding(9, 3, sparse=sparse),
                "one": nn.Linear(3, 5),
                "two": nn.Linear(3, 5),
            }
        )
        optimizer = (
            optimizer_of(model, conf)
            if ours
            else SGD(model.parameters(), 0.1, momentum, weight_decay=weight_decay, foreach=True)
        )
        # Of the two layers sometimes one has a gradient, sometimes the other, sometimes both.
        for used in (["one"], ["two"], ["one", "two"], ["one"], ["two"]):
            optimizer.zero_grad()
            embedded = model["words"](torch.randint(0, 9, (4,)))
            sum(model[name](embedded).square().sum() for name in used).backward()
            optimizer.step()
        models.append(model.state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_gradients_are_forgotten_or_made_zeros() -> None:
    layer = nn.Linear(2, 1)
    optimizer = optimizer_of(layer, TrainerConf(optimizer="sgd"))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert layer.weight.grad is not None and not layer.weight.grad.any()
    optimizer.zero_grad()
    assert [p.grad for p in layer.parameters()] == [None, None]


def test_a_hook_of_an_optimizer_s_step_is_called() -> None:
    called = []
    optimizer = optimizer_of(nn.Linear(2, 1), TrainerConf(optimizer="sgd"))
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    optimizer.step()
    assert called == [1]


def test_a_training_loads_nothing_of_torch_s_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from client.device import reproducible\n"
        "from client.optimizer import optimizer_of, set_learning_rate\n"
        "from conf.schema import TrainerConf\n"
        "for name in ('sgd', 'adam', 'adamw'):\n"
        "    conf = TrainerConf(optimizer=name)\n"
        "    with reproducible(torch.device('cpu'), 1, conf):\n"
        "        model = nn.Linear(2, 1)\n"
        "        optimizer = optimizer_of(model, conf)\n"
        "        set_learning_rate(optimizer, 0.1)\n"
        "        optimizer.zero_grad()\n"
        "        model(torch.ones(3, 2)).sum().backward()\n"
        "        optimizer.step()\n"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"

"""Classes that count alike in the loss, however few examples one has."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from client.input_layer import WithInputLayer
from client.tasks import task_of
from conf.schema import TableConf

COLUMNS = [{"name": "x", "low": -1, "high": 1}, {"name": "y", "type": "flag"}]


def model(weights: list[float]) -> nn.Module:
    layer = nn.Identity()
    layer.register_buffer("class_weights", torch.tensor(weights))
    return WithInputLayer(layer, nn.Linear(1, 2))


def test_an_example_weighs_in_the_loss_what_its_class_does() -> None:
    task = task_of(TableConf(label="y", columns=COLUMNS, balanced=True))
    batch = (torch.tensor([[0.5], [-0.5], [0.1]]), torch.tensor([0, 1, 0]))
    weighed = model([0.5, 3.0])

    loss = task.loss(task.output(weighed, batch), batch)

    each = functional.cross_entropy(weighed(batch[0]), batch[1], reduction="none")
    expected = (each * torch.tensor([0.5, 3.0, 0.5])).mean()
    torch.testing.assert_close(loss, expected)


def test_weights_change_no_metric() -> None:
    plain = task_of(TableConf(label="y", columns=COLUMNS))
    balanced = task_of(TableConf(label="y", columns=COLUMNS, balanced=True))
    batch = (torch.tensor([[0.5], [-0.5], [0.1]]), torch.tensor([0, 1, 0]))
    some = model([0.5, 3.0])

    counted = plain.sums(plain.output(some, batch), batch)
    weighed = balanced.sums(balanced.output(some, batch), batch)

    assert counted.keys() == weighed.keys()
    assert all(torch.equal(counted[name], weighed[name]) for name in counted)

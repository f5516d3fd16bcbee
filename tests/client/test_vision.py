"""torchvision's networks for any channels, with a normalisation that suits a federation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.models import build_model
from client.tasks import task_of
from client.tasks.base import Contract
from client.vision import network
from conf.schema import ImagesConf, ModelConf

CONTRACT = Contract((1, 64, 64), ("a", "b", "c"))


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "efficientnet_b0"])
def test_group_normalisation_leaves_nothing_but_weights_to_travel(name: str) -> None:
    with torch.device("meta"):
        model = network(CONTRACT, name, "group")

    assert not list(model.named_buffers())
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_network_takes_grey_images_and_gives_an_output_a_class() -> None:
    for norm in ("group", "batch", "frozen"):
        model = network(CONTRACT, "efficientnet_b0", norm).eval()
        assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)


def test_frozen_statistics_are_buffers_that_training_does_not_move() -> None:
    model = network(CONTRACT, "efficientnet_b0", "frozen").train()
    before = {name: value.clone() for name, value in model.named_buffers()}

    model(torch.randn(2, 1, 64, 64))

    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_the_accelerators_network_has_the_accelerators_size() -> None:
    task = task_of(ImagesConf(classes=["NORMAL", "PNEUMONIA"], channels=1))
    with torch.device("meta"):
        model = build_model(ModelConf(name="xray_cnn"), task, 0)

    assert sum(weight.numel() for weight in model.parameters()) == 25_783_554

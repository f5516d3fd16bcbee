"""The models have the published sizes, take the tasks' shapes, and start from their seed alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.models import build_model
from client.tasks.base import Contract
from conf.errors import DataError
from conf.schema import MlpConf, ModelConf, ResNetConf

TEN = tuple("0123456789")
CONFS = [ModelConf(), MlpConf(), MlpConf(hidden=[]), ResNetConf(), ResNetConf(norm="group")]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_cnn_has_niid_bench_s_parameters_for_mnist_and_cifar() -> None:
    assert parameters(build_model(ModelConf(), Contract((1, 28, 28), TEN), 0)) == 44_426
    assert parameters(build_model(ModelConf(), Contract((3, 32, 32), TEN), 0)) == 62_006


def test_the_mlp_counts_its_layers() -> None:
    assert parameters(build_model(MlpConf(hidden=[]), Contract((1, 28, 28), TEN), 0)) == 7_850
    assert (
        parameters(build_model(MlpConf(hidden=[64, 32]), Contract((1, 8, 8), TEN), 0))
        == 65 * 64 + 65 * 32 + 33 * 10
    )


@pytest.mark.parametrize("conf", CONFS, ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 33)], ids=str)
def test_each_model_takes_each_shape(conf: ModelConf, shape: tuple[int, ...]) -> None:
    model = build_model(conf, Contract(shape, TEN), 0)
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("channels, side", [(3, 224), (1, 64)])
def test_large_images_get_resnet_s_own_first_layer(channels: int, side: int) -> None:
    model = build_model(ResNetConf(), Contract((channels, side, side), TEN), 0)
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)
    assert dict(model.named_modules())["conv1"].stride == (2, 2)


@pytest.mark.parametrize("conf", CONFS, ids=repr)
def test_weights_come_from_the_seed_alone(conf: ModelConf) -> None:
    contract, before = Contract((1, 8, 8), TEN), torch.get_rng_state()
    one, again, other = (list(build_model(conf, contract, seed).parameters()) for seed in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_group_normalisation_leaves_no_buffers_to_travel() -> None:
    contract = Contract((1, 8, 8), TEN)
    batch, group = (build_model(ResNetConf(norm=norm), contract, 0) for norm in ("batch", "group"))
    assert len(list(batch.buffers())) == 60 and not list(group.buffers())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in group.modules())
    assert parameters(batch) == parameters(group)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"MDW-207: model=cnn needs 4 x 4 pixels, the task has 3 x 9.*model=mlp"
    ):
        build_model(ModelConf(), Contract((1, 3, 9), TEN), 0)

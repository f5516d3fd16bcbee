"""The models have the published sizes, take the tasks' shapes, and start from their seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client.models import build_model
from client.tasks.base import Contract, Data, Task
from conf.errors import DataError
from conf.schema import MlpConf, ModelConf, ResNetConf, Silo, TaskModelConf

TEN = tuple("0123456789")
PUBLISHED = [ModelConf(), MlpConf(), MlpConf(hidden=[]), ResNetConf(), ResNetConf(norm="group")]


class Fits(Task):
    """A task that is nothing but its contract."""

    name = "fits"

    def __init__(self, contract: Contract | None) -> None:
        self.contract = contract

    def data(self, silo: Silo) -> Data:
        raise NotImplementedError

    def loss(self, output: Any, batch: Any) -> Tensor:
        raise NotImplementedError


class Brings(Fits):
    """A task with a model of its own."""

    name = "brings"

    def model(self, conf: ModelConf) -> nn.Module:
        return nn.Linear(3, 2)


def built(conf: ModelConf, contract: Contract | None, seed: int = 0) -> nn.Module:
    return build_model(conf, Fits(contract), seed)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_cnn_has_niid_bench_s_parameters_for_mnist_and_cifar() -> None:
    assert parameters(built(ModelConf(), Contract((1, 28, 28), TEN))) == 44_426
    assert parameters(built(ModelConf(), Contract((3, 32, 32), TEN))) == 62_006


def test_the_mlp_counts_its_layers() -> None:
    assert parameters(built(MlpConf(hidden=[]), Contract((1, 28, 28), TEN))) == 7_850
    assert (
        parameters(built(MlpConf(hidden=[64, 32]), Contract((1, 8, 8), TEN)))
        == 65 * 64 + 65 * 32 + 33 * 10
    )


@pytest.mark.parametrize("conf", PUBLISHED, ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 33)], ids=str)
def test_each_model_takes_each_shape(conf: ModelConf, shape: tuple[int, ...]) -> None:
    model = built(conf, Contract(shape, TEN))
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("channels, side", [(3, 224), (1, 64)])
def test_large_images_get_resnet_s_own_first_layer(channels: int, side: int) -> None:
    model = built(ResNetConf(), Contract((channels, side, side), TEN))
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)
    assert dict(model.named_modules())["conv1"].stride == (2, 2)


@pytest.mark.parametrize("conf", PUBLISHED, ids=repr)
def test_weights_come_from_the_seed_alone(conf: ModelConf) -> None:
    contract, before = Contract((1, 8, 8), TEN), torch.get_rng_state()
    one, again, other = (list(built(conf, contract, seed).parameters()) for seed in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_group_normalisation_leaves_no_buffers_to_travel() -> None:
    contract = Contract((1, 8, 8), TEN)
    batch, group = (built(ResNetConf(norm=norm), contract) for norm in ("batch", "group"))
    assert len(list(batch.buffers())) == 60 and not list(group.buffers())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in group.modules())
    assert parameters(batch) == parameters(group)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"MDW-207: model=cnn needs 4 x 4 pixels, the task has 3 x 9.*model=mlp"
    ):
        built(ModelConf(), Contract((1, 3, 9), TEN))


@pytest.mark.parametrize("conf", [ModelConf(), ResNetConf()], ids=repr)
def test_a_model_of_images_says_that_a_table_is_none(conf: ModelConf) -> None:
    says = rf"MDW-207: model={conf.name} needs images .* examples are 11\. Use model=mlp"
    with pytest.raises(DataError, match=says):
        built(conf, Contract((11,), TEN))


@pytest.mark.parametrize("conf", PUBLISHED, ids=repr)
def test_a_shape_that_varies_is_refused(conf: ModelConf) -> None:
    with pytest.raises(DataError, match=r"MDW-207: .* needs examples of one size.*3 x any x 8"):
        built(conf, Contract((3, None, 8), TEN))


def test_the_mlp_takes_rows_sequences_and_numbers_to_predict() -> None:
    assert built(MlpConf(), Contract((11,), ("bad", "good")))(torch.zeros(2, 11)).shape == (2, 2)
    predicts = Contract((7, 5), targets=("price",))
    assert built(MlpConf(), predicts)(torch.zeros(2, 7, 5)).shape == (2, 1)


@pytest.mark.parametrize("conf", PUBLISHED, ids=repr)
def test_a_model_of_this_tree_needs_a_contract_of_one_answer_an_example(conf: ModelConf) -> None:
    with pytest.raises(DataError, match=rf"MDW-212: model={conf.name}: the task fits has no"):
        built(conf, None)
    with pytest.raises(DataError, match=rf"MDW-207: model={conf.name} gives one answer an example"):
        built(conf, Contract((1, 8, 8), TEN, dense=True))


def test_a_task_may_bring_its_model_and_need_no_contract() -> None:
    one, again, other = (build_model(TaskModelConf(), Brings(None), seed) for seed in (1, 1, 2))
    assert torch.equal(one.weight, again.weight) and not torch.equal(one.weight, other.weight)


def test_a_task_without_a_model_of_its_own_says_so() -> None:
    with pytest.raises(DataError, match="MDW-210: model=task: the task fits brings no model"):
        build_model(TaskModelConf(), Fits(Contract((3,), TEN)), 0)

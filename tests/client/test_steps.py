"""A step is taken again, to the same bits, after full memory; in fp16 also after an overflow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from client import loop
from client.loop import Trained
from client.models import build_model
from client.tasks import task_named
from client.tasks.kinds.classification import Classification
from conf.errors import DataError
from conf.schema import DataConf, ResNetConf, Silo, TrainerConf
from strategies.fedprox import FedProxSilo
from strategies.wire import protocol

DIGITS = task_named("digits")
FP16 = TrainerConf(precision="fp16")


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    few = DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=80))).train
    assert isinstance(few, TensorDataset)
    return few


class Full(type(DIGITS)):  # type: ignore[misc]  # the class of a task
    """Digits on a device whose memory is full at some losses, counted from 1."""

    def __init__(self, at: set[int]) -> None:
        self.name = "digits"
        self.at = at
        self.asked = 0

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        self.asked += 1
        if self.asked in self.at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Classification.loss(self, output, batch)


def net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10)
    )


def trained(task: Any, dataset: TensorDataset, **keys: Any) -> tuple[nn.Module, Trained]:
    model = net()
    conf = TrainerConf(batch_size=8, clip_norm=1.0, **keys)
    return model, loop.train(model, dataset, task, conf, FedProxSilo(0.1), seed=3)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    "keys", [{}, {"accumulate": 3}, {"precision": "fp16"}, {"precision": "bf16"}], ids=str
)
def test_a_batch_that_finds_memory_full_once_leaves_the_bits_of_an_undisturbed_round(
    data: TensorDataset, keys: dict[str, Any]
) -> None:
    undisturbed, once = trained(DIGITS, data, **keys)
    task = Full({2, 8})
    disturbed, twice = trained(task, data, **keys)
    assert task.asked >= 10
    assert same(undisturbed, disturbed)
    assert once.metrics[protocol.LOSS] == twice.metrics[protocol.LOSS]


def test_a_batch_that_finds_memory_full_twice_is_an_error_with_a_number(
    data: TensorDataset,
) -> None:
    with pytest.raises(DataError, match=r"MDW-225: A batch of 8.*batch_size_at_most=4"):
        trained(Full({2, 3}), data)


def test_a_failed_round_is_followed_by_a_whole_one(data: TensorDataset) -> None:
    task = Full({2, 3})
    model = net()
    start = copy.deepcopy(model.state_dict())
    conf = TrainerConf(batch_size=8, clip_norm=1.0)
    with pytest.raises(DataError):
        loop.train(model, data, task, conf, FedProxSilo(0.1), seed=3)
    model.load_state_dict(start)
    loop.train(model, data, task, conf, FedProxSilo(0.1), seed=3)
    assert same(model, trained(DIGITS, data)[0])


def test_an_evaluation_that_finds_memory_full_once_goes_on(data: TensorDataset) -> None:
    model = net()
    whole = loop.evaluate(model, data, DIGITS, TrainerConf(eval_batch_size=16))
    task = Full({2})
    again = loop.evaluate(model, data, task, TrainerConf(eval_batch_size=16))
    assert torch.equal(whole.sums["loss"], again.sums["loss"])
    with pytest.raises(DataError, match=r"MDW-225: A batch of 16.*batch_size_at_most=8"):
        loop.evaluate(model, data, Full({1, 2}), TrainerConf(eval_batch_size=16))


class Loud(type(DIGITS)):  # type: ignore[misc]  # the class of a task
    """Digits whose gradients overflow at the scale that torch begins with."""

    name = "digits"

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return Classification.loss(self, output, batch) * 1000


def two_rounds(model: nn.Module, task: Any, few: TensorDataset) -> list[float]:
    """Train two rounds of two steps, and return the scale after each; no step may be skipped."""
    conf = TrainerConf(precision="fp16", batch_size=len(few) // 2, lr=1e-5)
    scaling: Any = None
    scales = []
    for round in (1, 2):
        done = loop.train(model, few, task, conf, seed=1, round=round, rounds=2, scaling=scaling)
        scaling = done.scaling
        scales.append(float(scaling["scale"]))
        assert done.metrics[protocol.SKIPPED_STEPS] == 0
    return scales


def test_in_fp16_no_step_is_lost_and_the_next_round_begins_with_the_scale_that_was_found(
    data: TensorDataset,
) -> None:
    first, second = two_rounds(net(), Loud(), data)
    assert first == second < 65536


@pytest.mark.slow
def test_in_fp16_no_step_of_resnet_is_lost_in_any_round(data: TensorDataset) -> None:
    few = TensorDataset(*(tensor[:8] for tensor in data.tensors))
    first, second = two_rounds(build_model(ResNetConf(), DIGITS, seed=1), DIGITS, few)
    assert first == second < 65536


class Broken(Full):
    """Digits some of whose batches are not finite, at any scale; counted as `Full` does."""

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        self.asked += 1
        loss = Classification.loss(self, output, batch)
        return loss * torch.inf if self.asked in self.at else loss


def test_a_step_that_overflows_at_any_scale_is_left_out_and_counted_for_nothing(
    data: TensorDataset,
) -> None:
    # The second batch, and each time that it is taken again.
    task = Broken(set(range(2, 19)))
    counted = []

    class Counts(FedProxSilo):
        def end(self, model: nn.Module, steps: int, rates: float) -> Any:
            counted.append((steps, rates))
            return super().end(model, steps, rates)

    conf = TrainerConf(precision="fp16", batch_size=16, momentum=0.0, lr=0.1)
    done = loop.train(net(), data, task, conf, Counts(0.0), seed=3)
    assert done.metrics[protocol.SKIPPED_STEPS] == 1
    ((steps, rates),) = counted
    assert steps == 3 and rates == pytest.approx(0.3)
    assert torch.isfinite(torch.tensor(done.metrics[protocol.LOSS]))
    assert float(done.scaling["scale"]) == 65536


def test_a_round_without_any_step_is_an_error_and_moves_nothing(data: TensorDataset) -> None:
    model = net()
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(DataError, match=r"MDW-224: None of the round's 2 steps"):
        loop.train(model, data, Broken(set(range(1000))), FP16, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

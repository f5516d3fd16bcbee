"""The loop is plain PyTorch: the same steps to the bit, and each option does what its name says."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from client import loop
from client.models import build_model
from client.sums import metrics_of
from client.tasks import task_named
from client.tasks.base import Data, Task
from conf.errors import ConfigError, DataError
from conf.schema import DataConf, MlpConf, ModelConf, ResNetConf, Silo, TrainerConf
from strategies.fedprox import FedProxSilo
from strategies.wire import protocol

DIGITS = task_named("digits")


@pytest.fixture(scope="module")
def data() -> Data:
    return DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=250)))


def model(conf: ModelConf | None = None) -> nn.Module:
    return build_model(conf or ModelConf(), DIGITS, seed=1)


def trained(
    conf: TrainerConf,
    dataset: Dataset[Any],
    start: nn.Module | None = None,
    seed: int = 3,
    **more: Any,
) -> nn.Module:
    net = loop.prepare(copy.deepcopy(start) if start else model(), conf)
    loop.train(net, dataset, DIGITS, conf, seed=seed, **more)
    return net


def scores(net: nn.Module, dataset: Dataset[Any], conf: TrainerConf) -> dict[str, float]:
    return metrics_of(DIGITS, loop.evaluate(net, dataset, DIGITS, conf).sums)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x.cpu(), y.cpu())
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def close(a: nn.Module, b: nn.Module, atol: float = 1e-6) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x.float(), y.float(), atol=atol) for x, y in pairs)


def plain(
    net: nn.Module,
    dataset: TensorDataset,
    conf: TrainerConf,
    seed: int,
    term: Callable[[nn.Module], Tensor] | None = None,
) -> float:
    """The loop that a person writes by hand; `term` is added to each loss. Returns the mean loss."""
    x, y = dataset.tensors
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=conf.lr, momentum=conf.momentum, weight_decay=conf.weight_decay
    )
    net.train()
    total = 0.0
    for _ in range(conf.epochs):
        for which in torch.randperm(len(y), generator=draws).split(conf.batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(x[which]), y[which])
            (loss + term(net) if term else loss).backward()
            optimizer.step()
            total += loss.item() * len(which)
    return total / len(y) / conf.epochs


def test_a_round_is_the_plain_loop_to_the_bit(data: Data) -> None:
    conf = TrainerConf(epochs=2, batch_size=32, weight_decay=1e-3)
    assert (
        isinstance(data.train, TensorDataset) and len(data.train) % 32
    )  # the last batch is a shorter one
    by_hand, ours = model(), model()
    expected = plain(by_hand, data.train, conf, seed=3)
    metrics = loop.train(ours, data.train, DIGITS, conf, seed=3).metrics
    assert same(by_hand, ours) and not same(ours, model())
    assert metrics[protocol.LOSS] == pytest.approx(expected, rel=1e-5)


def test_what_a_round_reports(data: Data) -> None:
    conf = TrainerConf(epochs=3)
    metrics = loop.train(model(), data.train, DIGITS, conf, seed=0).metrics
    assert set(metrics) == {
        protocol.LOSS,
        protocol.NUM_EXAMPLES,
        protocol.SECONDS,
        protocol.SAMPLES_PER_SECOND,
    }
    assert metrics[protocol.NUM_EXAMPLES] == 200 and type(metrics[protocol.NUM_EXAMPLES]) is int
    assert metrics[protocol.SAMPLES_PER_SECOND] * metrics[protocol.SECONDS] == pytest.approx(600)


@pytest.mark.parametrize(
    "conf", [ModelConf(), MlpConf(), ResNetConf(), ResNetConf(norm="group")], ids=repr
)
def test_the_same_seed_gives_the_same_bits(conf: ModelConf) -> None:
    few = DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=40))).train
    once, again, other = (
        trained(TrainerConf(batch_size=8), few, model(conf), seed) for seed in (5, 5, 6)
    )
    assert same(once, again) and not same(once, other)


def test_dropout_is_drawn_from_the_seed_and_the_caller_s_random_state_is_left_alone(
    data: Data,
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    once = trained(TrainerConf(), data.train, net)
    assert (
        torch.equal(before, torch.get_rng_state())
        and not torch.are_deterministic_algorithms_enabled()
    )
    torch.manual_seed(2)
    assert same(once, trained(TrainerConf(), data.train, net))


def test_the_proximal_term_is_the_squared_distance_as_autograd_sees_it(data: Data) -> None:
    conf, mu = TrainerConf(epochs=2, batch_size=16), 0.7
    by_hand, ours = model(), model()
    start = [p.detach().clone() for p in by_hand.parameters()]

    def term(net: nn.Module) -> Tensor:
        pairs = zip(net.parameters(), start, strict=True)
        return mu / 2 * torch.stack([((w - w_t) ** 2).sum() for w, w_t in pairs]).sum()

    assert isinstance(data.train, TensorDataset)
    plain(by_hand, data.train, conf, 3, term)
    loop.train(ours, data.train, DIGITS, conf, FedProxSilo(mu), seed=3)
    assert close(by_hand, ours)
    assert not close(trained(conf, data.train), ours, atol=1e-3)


@pytest.mark.parametrize("examples", [64, 61])
def test_two_batches_of_8_make_the_step_of_one_of_16(examples: int) -> None:
    part = DIGITS.data(
        Silo("north", data=DataConf(partition="iid", examples=examples, validation=0, test=0))
    ).train
    whole = trained(TrainerConf(batch_size=16), part)
    halves = trained(TrainerConf(batch_size=8, accumulate=2), part)
    assert close(whole, halves) and not close(
        whole, trained(TrainerConf(batch_size=8), part), atol=1e-3
    )


class Tokens(Task):
    """Sequences of numbers, padded with zeros; the loss is a mean over those that are not zero."""

    name = "tokens"

    def data(self, silo: Silo) -> Data:
        raise NotImplementedError

    def output(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        predicted: Tensor = model(batch[0].unsqueeze(-1))
        return predicted.squeeze(-1)

    def loss(self, output: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        known = batch[0] != 0
        return (((output - 1) ** 2) * known).sum() / known.sum()

    def size(self, batch: tuple[Tensor, ...]) -> int:
        return int((batch[0] != 0).sum())


def test_batches_of_uneven_size_make_the_step_of_one_by_what_the_size_counts() -> None:
    draws = torch.Generator().manual_seed(0)
    sequences = torch.rand(12, 9, generator=draws) + 0.1
    for row, length_of in enumerate([1, 9, 2, 8, 1, 1, 9, 9, 3, 1, 7, 2]):
        sequences[row, length_of:] = 0
    weights = []
    losses = []
    for conf in (TrainerConf(batch_size=12), TrainerConf(batch_size=4, accumulate=3)):
        torch.manual_seed(1)
        net = nn.Linear(1, 1)
        done = loop.train(net, TensorDataset(sequences), Tokens(), conf, seed=3)
        weights.append(net.weight.item())
        losses.append(done.metrics[protocol.LOSS])
        assert done.size == 53
        assert done.metrics[protocol.NUM_EXAMPLES] == 12
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_size_is_that_of_one_epoch() -> None:
    net = nn.Linear(1, 1)
    ones = TensorDataset(torch.ones(5, 2))
    assert loop.train(net, ones, Tokens(), TrainerConf(epochs=3), seed=3).size == 10


def test_clipping_bounds_the_step(data: Data) -> None:
    one_step = TrainerConf(batch_size=1000, lr=1.0, momentum=0, clip_norm=0.01)
    net = trained(one_step, data.train)
    pairs = zip(net.state_dict().values(), model().state_dict().values(), strict=True)
    moved = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in pairs))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_a_schedule_goes_on_from_round_to_round(data: Data) -> None:
    conf = TrainerConf(schedule="step", schedule_steps=2, schedule_gamma=0.5, momentum=0)
    halved = dataclasses.replace(conf, schedule="constant", lr=conf.lr / 2)
    first, second = (trained(conf, data.train, round=r, rounds=2) for r in (1, 2))
    assert same(first, trained(dataclasses.replace(conf, schedule="constant"), data.train))
    assert same(second, trained(halved, data.train))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_learn(data: Data, optimizer: str) -> None:
    conf = TrainerConf(optimizer=optimizer, lr=0.01, epochs=8)
    net = model()
    before = scores(net, data.train, conf)
    loop.train(net, data.train, DIGITS, conf, seed=0)
    assert scores(net, data.train, conf)[protocol.LOSS] < before[protocol.LOSS] / 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_full_and_keeps_full_weights(data: Data, precision: str) -> None:
    conf = TrainerConf(lr=0.01)
    half = trained(dataclasses.replace(conf, precision=precision), data.train)
    full = trained(conf, data.train)
    assert all(p.dtype == torch.float32 for p in half.parameters())
    assert close(half, full, atol=0.02) and not same(half, full)


def test_channels_last_changes_the_layout_and_not_the_result(data: Data) -> None:
    conf = TrainerConf(lr=0.01)
    last = trained(dataclasses.replace(conf, channels_last=True), data.train)
    assert next(p for p in last.parameters() if p.dim() == 4 and p.shape[1] > 1).is_contiguous(
        memory_format=torch.channels_last
    )
    assert close(last, trained(conf, data.train), atol=1e-5)


class OnDisk(Dataset[tuple[Tensor, Tensor]]):
    """The same examples one at a time, as a set on disk gives them."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inner[index]
        return x, y


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_that_is_not_in_memory_trains_the_same_model(data: Data, workers: int) -> None:
    assert isinstance(data.train, TensorDataset)
    conf = TrainerConf(epochs=2, loader_workers=workers)
    assert same(trained(conf, data.train), trained(conf, OnDisk(data.train)))


def test_evaluation_covers_every_example_once_and_changes_nothing(data: Data) -> None:
    net = model(ResNetConf())
    before = copy.deepcopy(net)
    whole = loop.evaluate(net, data.validation, DIGITS, TrainerConf(eval_batch_size=1000))
    parts = loop.evaluate(net, data.validation, DIGITS, TrainerConf(eval_batch_size=7))
    assert same(net, before)
    assert whole.examples == parts.examples == int(parts.sums["size"]) == 25
    assert torch.equal(whole.sums["confusion"], parts.sums["confusion"])
    assert float(whole.sums["loss"]) == pytest.approx(float(parts.sums["loss"]), rel=1e-4)
    assert isinstance(data.validation, TensorDataset)
    x, y = data.validation.tensors
    with torch.no_grad():
        right = net.eval()(x).argmax(1) == y
    assert metrics_of(DIGITS, whole.sums)["accuracy"] == pytest.approx(float(right.float().mean()))


def test_without_examples_there_are_no_metrics(data: Data) -> None:
    none = DIGITS.data(Silo("north", data=DataConf(validation=0))).validation
    evaluation = loop.evaluate(model(), none, DIGITS, TrainerConf())
    assert evaluation.sums == {} and evaluation.cost == {protocol.NUM_EXAMPLES: 0}
    assert metrics_of(DIGITS, evaluation.sums) == {}


def test_batch_norm_meets_no_batch_of_one() -> None:
    nine = DIGITS.data(
        Silo("north", data=DataConf(partition="iid", examples=9, validation=0, test=0))
    ).train
    net = trained(TrainerConf(batch_size=4), nine, model(ResNetConf()))
    assert int(net.state_dict()["bn1.num_batches_tracked"]) == 2  # 4 and 5, not 4, 4 and 1


def test_too_few_examples_are_an_error_that_says_what_to_do(data: Data) -> None:
    none = DIGITS.data(Silo("north", data=DataConf(validation=0))).validation
    one = DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=1))).train
    with pytest.raises(DataError, match=r"MDW-205: 0 examples are too few to train on"):
        loop.train(model(), none, DIGITS, TrainerConf(), seed=0)
    with pytest.raises(
        DataError, match=r"MDW-205: 1 examples .* BatchNorm needs two.*group normalisation"
    ):
        loop.train(model(ResNetConf()), one, DIGITS, TrainerConf(), seed=0)
    loop.train(model(ResNetConf(norm="group")), one, DIGITS, TrainerConf(), seed=0)


def test_gradients_left_by_a_failed_round_do_not_reach_the_next(data: Data) -> None:
    net = model()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    loop.train(net, data.train, DIGITS, TrainerConf(), seed=3)
    assert same(net, trained(TrainerConf(), data.train))


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"MDW-104: The device 'tpu9' can't be used here"):
        loop.prepare(model(), TrainerConf(), "tpu9")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"MDW-104: The device 'cuda:0' can't be used here.*Use auto or cpu"
    ):
        loop.prepare(model(), TrainerConf(device="cuda"))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="no C++ compiler for torch.compile on this machine"
)
def test_a_compiled_model_keeps_its_names_and_results(data: Data) -> None:
    conf = TrainerConf(lr=0.01, compile=True)
    compiled, eager = (
        trained(conf, data.train),
        trained(dataclasses.replace(conf, compile=False), data.train),
    )
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert close(compiled, eager, atol=1e-4)


def test_a_model_of_volumes_keeps_its_layout() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    loop.prepare(model, TrainerConf(device="cpu", channels_last=True))
    assert model[0].weight.is_contiguous()

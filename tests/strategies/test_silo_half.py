"""The hooks of the silo's half are enough for algorithms that differ, and cost nothing unused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from client import loop
from client.models import build_model
from client.tasks import task_named
from client.tasks.base import Data
from conf.errors import WireError
from conf.schema import DataConf, ModelConf, Silo, TrainerConf
from strategies.fedprox import FedProxSilo
from strategies.silo_half import Records, RunEpochs, SiloHalf, belongs
from tests.strategies.sketches import (
    DittoSilo,
    FedRepSilo,
    FedRSSilo,
    GlobalTeacherSilo,
    MoonSilo,
    NoisySilo,
    SampledSilo,
)

DIGITS = task_named("digits")
PLAIN = TrainerConf(momentum=0.0)
LAST = "11"
"""The layer of the CNN that gives the scores."""


@pytest.fixture(scope="module")
def data() -> Data:
    return DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=250)))


def network() -> nn.Module:
    return build_model(ModelConf(), DIGITS, seed=1)


def trained(
    data: Data, half: SiloHalf | None = None, conf: TrainerConf = PLAIN, **given: Any
) -> tuple[dict[str, torch.Tensor], loop.Trained]:
    model = network()
    told = loop.train(model, data.train, DIGITS, conf, half, seed=3, labels=data.labels, **given)
    return model.state_dict(), told


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], *names: str) -> bool:
    return all(torch.equal(a[name], b[name]) for name in names or a)


def test_a_half_that_does_nothing_is_plain_training_to_the_bit(data: Data) -> None:
    conf = TrainerConf(epochs=2, weight_decay=1e-3, clip_norm=1.0, accumulate=2)
    assert same(trained(data, None, conf)[0], trained(data, SiloHalf(), conf)[0])


class Watching(SiloHalf):
    """Writes down which hook was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        self.calls.append("begin")
        self.given = (state, sent)

    def fit(self, run_epochs: RunEpochs) -> None:
        self.calls.append("fit")
        run_epochs()

    def wrap(self, model: Any, optimizer: Any, batches: Any) -> Any:
        self.calls.append("wrap")
        return model, optimizer, batches

    def output(self, output: Any, batch: Any) -> Any:
        self.calls.append("output")
        return output

    def loss(self, loss: Any, model: Any, batch: Any) -> Any:
        self.calls.append("loss")
        return loss

    def gradients(self, weights: Any) -> None:
        self.calls.append("gradients")

    def end(self, model: nn.Module, steps: int, rates: float) -> tuple[Records, Records]:
        self.calls.append("end")
        self.took = (steps, rates)
        return {"c": {}}, {"d": {}}


def test_the_hooks_are_called_in_their_order_and_gradients_once_a_step(data: Data) -> None:
    half = Watching()
    records = {"x": {"y": torch.ones(1)}}
    conf = TrainerConf(batch_size=100, accumulate=2, momentum=0.0, lr=0.25)
    _, told = trained(data, half, conf, state=records, sent={})
    batch = ["output", "loss"]
    assert half.calls == ["begin", "fit", "wrap", *batch, *batch, "gradients", "end"]
    assert half.given == (records, {}) and half.took == (1, 0.25)
    assert (told.sent, told.state) == ({"c": {}}, {"d": {}})


def test_the_sum_of_rates_follows_the_schedule(data: Data) -> None:
    half = Watching()
    conf = TrainerConf(batch_size=50, momentum=0.0, lr=0.25, schedule="cosine")
    trained(data, half, conf, round=2, rounds=2)
    expected = [0.125 * (1 + math.cos(math.pi * (0.5 + step / 8))) for step in range(4)]
    assert half.took[0] == 4 and half.took[1] == pytest.approx(sum(expected), rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_sum_of_rates_is_how_far_a_gradient_of_one_moves_a_weight(
    data: Data, momentum: float
) -> None:
    class One(Watching):
        def gradients(self, weights: Any) -> None:
            for weight in weights:
                weight.grad.fill_(1.0)

    half = One()
    conf = TrainerConf(momentum=momentum, lr=0.1, epochs=2, schedule="cosine", batch_size=50)
    after, _ = trained(data, half, conf)
    for name, start in network().state_dict().items():
        assert torch.allclose(start - after[name], torch.tensor(half.took[1]), atol=1e-5)


def test_gradients_come_whole_and_before_clipping(data: Data) -> None:
    class Large(SiloHalf):
        def gradients(self, weights: Any) -> None:
            for weight in weights:
                weight.grad.fill_(1000.0)

    conf = TrainerConf(batch_size=1000, lr=1.0, momentum=0.0, clip_norm=0.01)
    after, _ = trained(data, Large(), conf)
    moved = sum(float(((after[n] - w) ** 2).sum()) for n, w in network().state_dict().items())
    assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def test_fedprox_takes_its_weight_from_the_round_s_start(data: Data) -> None:
    free, _ = trained(data)
    held, told = trained(data, FedProxSilo(1.0))
    start = network().state_dict()

    def distance(weights: dict[str, torch.Tensor]) -> float:
        return float(sum(((w - start[n]) ** 2).sum() for n, w in weights.items()))

    assert distance(held) < distance(free)
    assert (told.sent, told.state) == ({}, {})


def test_a_half_that_never_trains_the_model_is_named(data: Data) -> None:
    class Idle(SiloHalf):
        def fit(self, run_epochs: RunEpochs) -> None:
            run_epochs(network())

    with pytest.raises(WireError, match="MDW-671: Idle did not train"):
        trained(data, Idle())


def test_a_pass_that_trains_no_weight_is_named(data: Data) -> None:
    with pytest.raises(WireError, match="MDW-671: FedRepSilo trains no weight"):
        trained(data, FedRepSilo(["head"]))


def test_ditto_sends_the_model_of_fedavg_and_keeps_another(data: Data) -> None:
    plain, _ = trained(data)
    sent, told = trained(data, DittoSilo())
    personal = told.state["personal"]
    assert same(sent, plain) and not same(dict(personal), plain)
    _, again = trained(data, DittoSilo(), state=told.state)
    assert not same(dict(again.state["personal"]), dict(personal))


def test_what_a_pass_over_another_model_takes_is_not_counted(data: Data) -> None:
    _, plain = trained(data)
    _, ditto = trained(data, DittoSilo())
    assert ditto.metrics["loss"] == plain.metrics["loss"]


def test_fedrep_trains_the_head_alone_and_then_the_body_alone(data: Data) -> None:
    class HeadOnly(FedRepSilo):
        def fit(self, run_epochs: RunEpochs) -> None:
            run_epochs(epochs=self.head_epochs, trains=lambda name: belongs(name, self.keeps))

    start = network().state_dict()
    head = [name for name in start if belongs(name, [LAST])]
    body = [name for name in start if name not in head]
    first, _ = trained(data, HeadOnly([LAST]))
    both, told = trained(data, FedRepSilo([LAST]))
    assert same(first, start, *body) and not same(first, start, *head)
    assert same(both, first, *head) and not same(both, start, *body)
    # Two epochs of the head and one of the body.
    assert told.metrics["samples-per-second"] * told.metrics["seconds"] == pytest.approx(600)


def test_moon_s_term_is_at_its_neutral_value_while_all_three_models_agree(data: Data) -> None:
    half = MoonSilo(LAST)
    _, told = trained(data, half)
    assert list(told.state["before"]) == list(network().state_dict())
    after, _ = trained(data, MoonSilo(LAST), state=told.state)
    assert not same(after, trained(data)[0])


def test_moon_leaves_no_hook_on_the_model(data: Data) -> None:
    model = network()
    loop.train(model, data.train, DIGITS, PLAIN, MoonSilo(LAST), seed=3)
    assert not model.get_submodule(LAST)._forward_pre_hooks


def test_fedrs_holds_down_the_classes_that_a_silo_does_not_have() -> None:
    conf = DataConf(partition="labels", labels_per_silo=1)
    one_class = DIGITS.data(Silo("north", of=10, data=conf))
    plain, _ = trained(one_class)
    held, _ = trained(one_class, FedRSSilo(0.0))
    assert one_class.labels is not None
    absent = sorted(set(range(10)) - set(one_class.labels.tolist()))
    start = network().state_dict()
    name = f"{LAST}.weight"
    assert torch.equal(held[name][absent], start[name][absent])
    assert not torch.equal(plain[name][absent], start[name][absent])


@pytest.mark.parametrize("half", [GlobalTeacherSilo, SampledSilo, NoisySilo])
def test_distillation_and_other_batches_train_another_model(
    data: Data, half: type[SiloHalf]
) -> None:
    assert not same(trained(data, half())[0], trained(data)[0])


def test_fewer_batches_are_what_the_schedule_and_the_steps_count(data: Data) -> None:
    class Counting(SampledSilo, Watching):
        pass

    half = Counting()
    assert isinstance(data.train, TensorDataset) and len(data.train) == 200
    trained(data, half, TrainerConf(batch_size=20))
    assert half.took[0] == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bn", True), ("bn.weight", True), ("bn1.weight", False), ("layer.bn", False)],
)
def test_a_beginning_is_whole_words_between_dots(name: str, expected: bool) -> None:
    assert belongs(name, ["bn"]) is expected

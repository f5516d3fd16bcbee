"""SCAFFOLD is what its paper says: held against the recursion written by hand, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from client import loop
from client.tasks.base import Data, Task
from conf.errors import WireError
from conf.schema import Silo, TrainerConf
from strategies.scaffold import Scaffold, ScaffoldSilo
from strategies.silo_half import Records
from strategies.state import restore, state_of
from strategies.wire import protocol
from tests.strategies.conftest import FakeGrid

pytestmark = pytest.mark.usefixtures("task_identity")


class Quadratic(Task):
    """f_i(w) = a_i/2 (w - b_i)^2: one example (a_i, b_i), so that each batch is all of the data."""

    def data(self, silo: Silo) -> Data:
        raise NotImplementedError

    def output(self, model: nn.Module, batch: Any) -> Tensor:
        output: Tensor = model(batch[1])
        return output

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        loss: Tensor = (batch[0] / 2 * output**2).mean()
        return loss


class Distance(nn.Module):
    """The one weight, less what it should be; `seen` is a buffer that moves with each batch."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([at], dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.float64))

    def forward(self, b: Tensor) -> Tensor:
        self.seen += 0.5 * (b.mean() - self.seen)
        return self.w - b


CURVES = ((1.0, -2.0), (0.5, 3.0), (2.0, 0.5), (0.2, 8.0))
"""a_i and b_i of four silos."""


@dataclass
class Federation:
    """Both halves over some silos, without a network between them."""

    conf: TrainerConf
    server: Scaffold
    rounds: int
    curves: Sequence[tuple[float, float]] = CURVES
    states: list[Records] = field(default_factory=list)
    arrays: ArrayRecord = field(default_factory=ArrayRecord)
    done: int = 0

    def __post_init__(self) -> None:
        self.states = [{} for _ in self.curves]
        self.arrays = protocol.to_record(Distance(1.0).state_dict())
        self.server.open(len(self.curves), ["w"])

    def round(self, cohort: Sequence[int]) -> None:
        """One round with these silos."""
        self.done += 1
        grid = FakeGrid(0)
        grid.nodes = list(cohort)
        messages = self.server.configure_train(self.done, self.arrays, ConfigRecord(), grid)
        replies = [self._reply(message) for message in messages]
        arrays, _ = self.server.aggregate_train(self.done, replies)
        assert arrays is not None
        self.arrays = arrays

    def _reply(self, message: Message) -> Message:
        silo = message.metadata.dst_node_id
        sent = protocol.records(message.content, ArrayRecord)
        model = Distance(0.0)
        model.load_state_dict(protocol.to_state(sent[protocol.ARRAYS]))
        a, b = (torch.tensor([[v]], dtype=torch.float64) for v in self.curves[silo])
        told = loop.train(
            model,
            TensorDataset(a, b),
            Quadratic(),
            self.conf,
            ScaffoldSilo(),
            seed=0,
            round=self.done,
            rounds=self.rounds,
            state=self.states[silo],
            sent={"c": protocol.to_state(sent["c"])},
        )
        self.states[silo] = told.state
        content = RecordDict(
            {
                protocol.ARRAYS: protocol.to_record(model.state_dict()),
                protocol.METRICS: MetricRecord({protocol.NUM_EXAMPLES: 7 * silo + 1}),
                **{name: protocol.to_record(arrays) for name, arrays in told.sent.items()},
            }
        )
        return Message(content, reply_to=message)

    @property
    def weight(self) -> float:
        return float(self.arrays["w"].numpy()[0])

    @property
    def c(self) -> float:
        return float(self.server.c["w"][0])

    @property
    def variates(self) -> list[float]:
        return [float(state["c"]["w"]) if state else 0.0 for state in self.states]


def by_hand(
    conf: TrainerConf, server_lr: float, cohorts: Sequence[Sequence[int]]
) -> tuple[float, float, list[float]]:
    """Algorithm 1 with option II; momentum's steps and a cosine schedule written out."""
    x, c, own = 1.0, 0.0, [0.0] * len(CURVES)
    for number, cohort in enumerate(cohorts):
        moved, changed = [], []
        for i in cohort:
            a, b = CURVES[i]
            y, velocity, weights = x, 0.0, []
            rates = []
            for k in range(conf.epochs):
                rate = conf.lr
                if conf.schedule == "cosine":
                    done = (number + k / conf.epochs) / len(cohorts)
                    rate = conf.lr * (1 + math.cos(math.pi * done)) / 2
                velocity = conf.momentum * velocity + (a * (y - b) - own[i] + c)
                y -= rate * velocity
                rates.append(rate)
            # The weight of step k's gradient in y: its own rate, and what later steps repeat of it.
            for k in range(conf.epochs):
                later = range(k, conf.epochs)
                weights.append(sum(rates[j] * conf.momentum ** (j - k) for j in later))
            new = own[i] - c + (x - y) / sum(weights)
            moved.append(y - x)
            changed.append(new - own[i])
            own[i] = new
        x += server_lr * sum(moved) / len(cohort)
        c += len(cohort) / len(CURVES) * sum(changed) / len(cohort)
    return x, c, own


ALL = (0, 1, 2, 3)
PARTIAL = ((0, 1), (2,), (1, 2, 3), (0, 3), (1,), (0, 2))


@pytest.mark.parametrize("cohorts", [(ALL,) * 5, PARTIAL], ids=["all", "partial"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("server_lr", [1.0, 0.7])
def test_a_run_is_the_recursion_of_the_paper(
    cohorts: Sequence[Sequence[int]], momentum: float, schedule: str, server_lr: float
) -> None:
    conf = TrainerConf(epochs=4, lr=0.05, momentum=momentum, schedule=schedule)
    federation = Federation(conf, Scaffold(server_lr), len(cohorts))
    for cohort in cohorts:
        federation.round(cohort)
    x, c, own = by_hand(conf, server_lr, cohorts)
    # The loop takes losses in float32, whatever the model computes in.
    assert federation.weight == pytest.approx(x, abs=1e-6)
    assert federation.c == pytest.approx(c, abs=2e-6)
    assert federation.variates == pytest.approx(own, abs=2e-6)


@pytest.mark.parametrize("cohorts", [(ALL,) * 5, PARTIAL], ids=["all", "partial"])
def test_the_server_s_variate_is_the_mean_of_the_silos_whoever_took_part(
    cohorts: Sequence[Sequence[int]],
) -> None:
    federation = Federation(TrainerConf(epochs=3, lr=0.1), Scaffold(), len(cohorts))
    for cohort in cohorts:
        federation.round(cohort)
        assert federation.c == pytest.approx(sum(federation.variates) / 4, abs=1e-12)


def test_a_first_round_s_variate_is_the_mean_of_the_gradients() -> None:
    federation = Federation(TrainerConf(epochs=1, lr=0.1), Scaffold(), 1)
    federation.round(ALL)
    assert federation.variates == pytest.approx([a * (1.0 - b) for a, b in CURVES], abs=1e-6)


def test_it_comes_to_the_optimum_of_all_where_fedavg_does_not() -> None:
    conf = TrainerConf(epochs=10, lr=0.1, momentum=0.0)
    federation = Federation(conf, Scaffold(), 100)
    for _ in range(100):
        federation.round(ALL)
    optimum = sum(a * b for a, b in CURVES) / sum(a for a, _ in CURVES)
    # FedAvg's fixed point: each silo goes a share 1 - (1 - lr a)^K of the way to its own optimum.
    shares = [1 - (1 - conf.lr * a) ** conf.epochs for a, _ in CURVES]
    fedavg = sum(s * b for s, (_, b) in zip(shares, CURVES, strict=True)) / sum(shares)
    assert federation.weight == pytest.approx(optimum, abs=1e-6)
    assert abs(fedavg - optimum) > 0.25


def test_buffers_are_averaged_and_have_no_variate() -> None:
    federation = Federation(TrainerConf(epochs=1, lr=0.1), Scaffold(0.5), 1)
    federation.round(ALL)
    assert list(federation.server.c) == ["w"]
    # Half of each b_i, averaged over the silos, not moved half way.
    mean = sum(b / 2 for _, b in CURVES) / 4
    assert float(federation.arrays["seen"].numpy()[0]) == pytest.approx(mean, abs=1e-12)


def test_under_flower_s_own_loop_every_array_of_floats_has_a_variate() -> None:
    server = Scaffold()
    grid = FakeGrid(0)
    grid.nodes = [1, 2]
    arrays = ArrayRecord({"w": Array(np.ones(2, np.float32)), "n": Array(np.ones(1, np.int64))})
    (first, _) = server.configure_train(1, arrays, ConfigRecord(), grid)
    sent = protocol.records(first.content, ArrayRecord)["c"]
    assert list(sent) == ["w"] and sent["w"].numpy().tolist() == [0.0, 0.0]
    assert server.silos == 2


class Answering(FakeGrid):
    """Each node answers as a silo does whose gradient is one everywhere."""

    def reply(self, message: Message) -> Message:
        reply = super().reply(message)
        if message.metadata.message_type == "train":
            sent = protocol.records(message.content, ArrayRecord)["c"]
            ones = {name: Array(np.ones_like(c.numpy())) for name, c in sent.items()}
            reply.content["c"] = ArrayRecord(ones)
        return reply


def test_flower_s_own_loop_runs_it(model: ArrayRecord) -> None:
    server = Scaffold()
    result = server.start(Answering(3), model, num_rounds=2)
    assert list(result.arrays) == list(model)
    # All three take part in both rounds, and each says that its variate grew by one.
    assert set(np.concatenate([c.ravel() for c in server.c.values()]).tolist()) == {2.0}


def test_what_is_not_trained_here_is_sent_as_zeros() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for weight in model[0].parameters():
        weight.requires_grad_(False)
    half = ScaffoldSilo()
    c = {name: torch.ones_like(w) for name, w in model.named_parameters()}
    half.begin(model, {}, {"c": c})
    sent, state = half.end(model, 1, 1.0)
    assert list(sent["c"]) == list(c) and list(state["c"]) == ["1.weight", "1.bias"]
    assert not sent["c"]["0.weight"].any() and float(sent["c"]["1.bias"]) == -1.0


def test_a_weight_that_the_loss_does_not_depend_on_is_still_corrected() -> None:
    model = nn.Linear(1, 1)
    half = ScaffoldSilo()
    c = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    half.begin(model, {}, {"c": c})
    half.gradients(list(model.parameters()))
    assert [float(w.grad) for w in model.parameters() if w.grad is not None] == [1.0, 1.0]


@pytest.mark.parametrize("c", [{}, {"weight": torch.ones(1), "bias": torch.ones(1)}])
def test_a_server_that_sends_no_variate_of_the_model_is_refused(c: dict[str, Tensor]) -> None:
    with pytest.raises(WireError, match=r"MDW-673.*'weight'"):
        ScaffoldSilo().begin(nn.Linear(1, 1), {}, {"c": c})


def test_a_resumed_server_goes_on_from_its_variate() -> None:
    conf = TrainerConf(epochs=3, lr=0.1)
    whole = Federation(conf, Scaffold(), len(PARTIAL))
    broken = Federation(conf, Scaffold(), len(PARTIAL))
    for number, cohort in enumerate(PARTIAL):
        whole.round(cohort)
        if number == 3:
            state = state_of(broken.server)
            broken.server = Scaffold()
            restore(broken.server, state)
            broken.server.open(4, ["w"])
        broken.round(cohort)
    assert (whole.weight, whole.c) == (broken.weight, broken.c)

"""What a strategy would do to a model is known before anything is trained for it."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdam, Krum
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from conf.compose import compose
from conf.errors import RoundError
from server.round.dry_aggregation import dry_aggregation
from strategies import build_strategy
from strategies.fedavg import FedAvg

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


def model() -> ArrayRecord:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    return ArrayRecord({"w": Array(weights), "steps": Array(np.array(3))})


class Changing(FedAvg):
    """FedAvg that returns what a test gives it."""

    def __init__(self, gives: ArrayRecord | None) -> None:
        super().__init__()
        self.gives = gives

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        super().aggregate_train(server_round, replies)
        return self.gives, None


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (None, "gave no model for 2 updates"),
        (ArrayRecord({"w": Array(np.ones((2, 3)))}), "'steps' is missing"),
        (ArrayRecord(dict(model()) | {"b": Array(np.ones(1))}), "'b' is new"),
        (ArrayRecord(dict(model()) | {"w": Array(np.ones(6))}), r"'w' has the shape \(6,\)"),
        (ArrayRecord(dict(model()) | {"w": Array(np.full((2, 3), np.nan))}), "'w' is not finite"),
    ],
)
def test_a_changed_model_is_refused_by_the_array(gives: ArrayRecord | None, says: str) -> None:
    with pytest.raises(RoundError, match=f"Changing.aggregate_train` .*{says}") as caught:
        dry_aggregation(Changing(gives), model(), 3)
    assert caught.value.code == "MDW-405"


def test_what_a_strategy_raises_is_said_with_its_method() -> None:
    class Raising(FlowerFedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
            raise ZeroDivisionError("division by zero")

    with pytest.raises(RoundError, match=r"`Raising.aggregate_train` raised ZeroDivisionError"):
        dry_aggregation(Raising(min_train_nodes=1, min_available_nodes=1), model(), 3)


def test_a_strategy_that_takes_a_list_gets_as_many_as_a_round_would_give_it() -> None:
    seen: list[int] = []

    class Counting(FlowerFedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
            given = list(replies)
            seen.append(len(given))
            return super().aggregate_train(server_round, given)

    dry_aggregation(Counting(), model(), 7)
    assert seen == [7]


@pytest.mark.parametrize(
    "choice",
    [
        "strategy=fedavg",
        "strategy=fedprox",
        "strategy=scaffold",
        f"strategy.target=flwr.serverapp.strategy.{FedAdam.__name__}",
        f"strategy.target=flwr.serverapp.strategy.{Krum.__name__}",
    ],
)
def test_good_ones_are_let_in(choice: str) -> None:
    dry_aggregation(build_strategy(compose([choice]).strategy), model(), 5)


def test_a_thousand_silos_cost_a_streaming_strategy_two_updates() -> None:
    folded: list[int] = []

    class Folding(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
            given = list(replies)
            folded.append(len(given))
            return super().aggregate_train(server_round, iter(given))

    dry_aggregation(Folding(), model(), 1000)
    assert folded == [2]


def test_generators_and_flowers_log_are_as_before(caplog: pytest.LogCaptureFixture) -> None:
    drawn = random.getstate(), np.random.get_state()[1].tolist()
    with caplog.at_level(logging.INFO, "flwr"):
        dry_aggregation(
            build_strategy(compose(["strategy.target=flwr.serverapp.strategy.FedAvg"]).strategy),
            model(),
            4,
        )
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn
    assert not caplog.records
    assert not logging.getLogger("flwr").disabled

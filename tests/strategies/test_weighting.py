"""What an update weighs: its examples, what the task's size counts, or each the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from conf.compose import compose
from conf.errors import ConfigError, WireError
from conf.schema import VARIANTS, StrategyConf
from strategies import build_strategy
from strategies.algorithm import Algorithm
from strategies.state import restore, state_of
from strategies.wire import protocol

FLOWER = "strategy.target=flwr.serverapp.strategy.FedAvg"
SILOS = ((0.0, 10, 7_000), (1.0, 30, 1_000), (5.0, 60, 2_000))
"""Of each silo: its model, its examples, and their size."""


def replies(grid: Any, strategy: Any, *, size: bool = True) -> list[Message]:
    model = ArrayRecord({"w": Array(np.zeros(2, np.float32))})
    sent = list(strategy.configure_train(1, model, ConfigRecord(), grid))
    made = []
    for message, (value, examples, size_of) in zip(sent, SILOS, strict=True):
        said: dict[str, int | float] = {protocol.NUM_EXAMPLES: examples, protocol.LOSS: value}
        if size:
            said[protocol.SIZE] = size_of
        arrays = ArrayRecord({"w": Array(np.full(2, value, np.float32))})
        content = RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: MetricRecord({**said})})
        made.append(Message(content, reply_to=message))
    return made


def built(*overrides: str) -> Any:
    return build_strategy(compose(list(overrides)).strategy)


@pytest.mark.parametrize("strategy", [(), ("strategy=fedprox",)])
@pytest.mark.parametrize(
    ("weighting", "mean"),
    [
        ("examples", (30 * 1.0 + 60 * 5.0) / 100),
        ("size", (1_000 * 1.0 + 2_000 * 5.0) / 10_000),
        ("equal", 2.0),
    ],
)
def test_updates_and_their_metrics_weigh_as_the_run_says(
    make_grid: Any, strategy: tuple[str, ...], weighting: str, mean: float
) -> None:
    made = built(*strategy, f"strategy.weighting={weighting}")
    arrays, metrics = made.aggregate_train(1, replies(make_grid(3), made))
    np.testing.assert_array_equal(arrays["w"].numpy(), np.full(2, np.float32(mean)))
    assert metrics[protocol.LOSS] == pytest.approx(mean)
    assert protocol.SIZE not in metrics


def test_without_the_size_that_weighs_there_is_no_mean(make_grid: Any) -> None:
    made = built("strategy.weighting=size")
    with pytest.raises(WireError, match=r"MDW-665.*size"):
        made.aggregate_train(1, replies(make_grid(3), made, size=False))


def test_flower_s_own_strategies_weigh_by_examples_or_equally(make_grid: Any) -> None:
    for words, mean in (((), 3.3), (("strategy.weighting=equal",), 2.0)):
        made = built(FLOWER, *words)
        arrays, _ = made.aggregate_train(1, replies(make_grid(3), made))
        np.testing.assert_allclose(arrays["w"].numpy(), mean, rtol=1e-6)


def test_what_a_strategy_of_flower_can_not_weigh_by_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MDW-165.*examples or equal"):
        built(FLOWER, "strategy.weighting=size")


def test_scaffold_s_silos_weigh_the_same_and_nothing_else_is_taken() -> None:
    assert built("strategy=scaffold").weighting == "equal"
    with pytest.raises(ConfigError, match=r"MDW-165.*by examples"):
        compose(["strategy=scaffold", "strategy.weighting=examples"])


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold"])
def test_what_weighs_is_the_configuration_s_and_not_a_checkpoint_s(name: str) -> None:
    conf: StrategyConf = VARIANTS["strategy"][name]()
    made = build_strategy(conf)
    assert isinstance(made, Algorithm)
    stored = state_of(made)
    made.weighting = "size"
    restore(made, stored)
    assert made.weighting == "size"

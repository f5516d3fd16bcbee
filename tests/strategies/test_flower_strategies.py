"""Each of Flower's own strategies runs here, and goes on from its stored state as if it had never stopped."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies

from conf.errors import ConfigError
from server.run.checkpoint import RunState, decode, encode
from strategies.external import UNFIT, External, construct_at
from strategies.state import restore, state_of

PREFIX = "flwr.serverapp.strategy."
SILOS = 7  # Bulyan needs 4 * malicious + 3
DP = {"noise_multiplier": 0.1, "num_sampled_clients": SILOS}
INNER = {"strategy": {"target": PREFIX + "FedAdam", "args": {"eta": 0.05}}}

ARGS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "FedProx": {"proximal_mu": 0.1},
    "FedAdagrad": {"eta": 0.1},
    "FedAdam": {"eta": 0.1},
    "FedYogi": {"eta": 0.1},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
    "QFedAvg": {"client_learning_rate": 0.1},
    "FedXgbCyclic": {},  # nothing of XGBoost in it: the model visits one silo a round
    "DifferentialPrivacyServerSideFixedClipping": {"clipping_norm": 0.5} | DP | INNER,
    "DifferentialPrivacyServerSideAdaptiveClipping": DP | INNER,
}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """QFedAvg and Bulyan collect garbage once an array and reply: seconds a test, with torch loaded."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def round_of(
    strategy: External, grid: Any, arrays: ArrayRecord, number: int
) -> tuple[ArrayRecord, MetricRecord]:
    """Do one round as `server.round.rounds` does: seeded, and the replies in a fixed order."""
    random.seed(number)
    np.random.seed(number)
    messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
    replies = sorted(grid.send_and_receive(messages), key=lambda r: r.metadata.src_node_id)
    new, metrics = strategy.aggregate_train(number, replies)
    assert new is not None and metrics is not None
    evaluated = grid.send_and_receive(
        strategy.configure_evaluate(number, new, ConfigRecord(), grid)
    )
    evaluation = strategy.aggregate_evaluate(
        number, sorted(evaluated, key=lambda r: r.metadata.src_node_id)
    )
    assert evaluation is not None
    return new, evaluation


def rounds(strategy: External, grid: Any, arrays: ArrayRecord, numbers: range) -> ArrayRecord:
    for number in numbers:
        arrays, _ = round_of(strategy, grid, arrays, number)
    return arrays


def values(arrays: ArrayRecord) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in arrays.items()}


def test_every_strategy_of_flower_is_either_run_here_or_named_with_the_reason() -> None:
    assert set(flower.__all__) - {"Strategy", "Result"} == set(ARGS) | set(UNFIT)
    assert not set(ARGS) & set(UNFIT)


@pytest.mark.parametrize("name", ARGS)
def test_it_runs_and_leaves_a_model_of_the_same_layout(
    name: str, make_grid: Any, model: ArrayRecord
) -> None:
    grid = make_grid(SILOS)
    arrays = rounds(External(construct_at(PREFIX + name, ARGS[name])), grid, model, range(1, 3))
    assert list(arrays) == list(model)
    assert [(a.dtype, a.shape) for a in arrays.values()] == [
        (a.dtype, a.shape) for a in model.values()
    ]
    assert all(np.isfinite(a.numpy()).all() for a in arrays.values())
    assert np.any(arrays["weight"].numpy() != model["weight"].numpy())
    trained = [m.content for m in grid.asked if m.metadata.message_type == "train"]
    assert len(trained) == (2 if name == "FedXgbCyclic" else 2 * SILOS)
    counts = [int(content["arrays"]["bn.num_batches_tracked"].numpy()) for content in trained]
    assert counts[0] == 0 < counts[-1] < arrays["bn.num_batches_tracked"].numpy()


@pytest.mark.parametrize("name", ARGS)
def test_two_rounds_and_two_more_from_its_stored_state_are_four_rounds(
    name: str, make_grid: Any, model: ArrayRecord
) -> None:
    unbroken = rounds(
        External(construct_at(PREFIX + name, ARGS[name])), make_grid(SILOS), model, range(1, 5)
    )

    first = External(construct_at(PREFIX + name, ARGS[name]))
    half = rounds(first, make_grid(SILOS), model, range(1, 3))
    stored = decode(encode(RunState(2, half, state_of(first))))
    second = External(construct_at(PREFIX + name, ARGS[name]))
    restore(second, stored.strategy)
    assert values(rounds(second, make_grid(SILOS), stored.arrays, range(3, 5))) == values(unbroken)


@pytest.mark.parametrize(
    "name",
    [
        "FedAvgM",
        "FedAdagrad",
        "FedAdam",
        "FedYogi",
        "DifferentialPrivacyServerSideAdaptiveClipping",
    ],
)
def test_without_its_state_the_model_would_be_another(
    name: str, make_grid: Any, model: ArrayRecord
) -> None:
    unbroken = rounds(
        External(construct_at(PREFIX + name, ARGS[name])), make_grid(SILOS), model, range(1, 5)
    )
    half = rounds(
        External(construct_at(PREFIX + name, ARGS[name])), make_grid(SILOS), model, range(1, 3)
    )
    forgetful = rounds(
        External(construct_at(PREFIX + name, ARGS[name])), make_grid(SILOS), half, range(3, 5)
    )
    assert values(forgetful) != values(unbroken)


def test_the_model_itself_is_not_stored_twice(make_grid: Any, model: ArrayRecord) -> None:
    adam = External(construct_at(PREFIX + "FedAdam", {}))
    rounds(adam, make_grid(3), model, range(1, 3))
    floats = sum(array.numpy().nbytes for array in model.values() if array.dtype == "float32")
    state = state_of(adam)
    assert (
        sum(a.numpy().nbytes for a in state.array_records["arrays"].values()) == 2 * floats
    )  # m_t and v_t


@pytest.mark.parametrize("name", UNFIT)
def test_one_that_can_not_work_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ConfigError, match="MDW-157") as caught:
        External(construct_at(PREFIX + name, {}))
    assert UNFIT[name] in str(caught.value)


FLOWERS_OWN: dict[str, tuple[Callable[[], flower.Strategy], type[Exception]]] = {
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        lambda: flower.DifferentialPrivacyClientSideAdaptiveClipping(flower.FedAvg(), 0.1, 3),
        AggregationError,
    ),
    "FedXgbBagging": (flower.FedXgbBagging, InconsistentMessageReplies),
}


@pytest.mark.parametrize("name", FLOWERS_OWN)
def test_the_reason_is_true(name: str, make_grid: Any, model: ArrayRecord) -> None:
    make, error = FLOWERS_OWN[name]
    with pytest.raises(error):
        make().start(make_grid(3), model, num_rounds=1)


def test_client_side_fixed_clipping_would_run_and_clip_nothing(
    make_grid: Any, model: ArrayRecord
) -> None:
    """Flower can't notice that no silo clips: what it returns here is a mean of unclipped updates with noise."""
    zeros = ArrayRecord({name: array for name, array in model.items() if array.dtype == "float32"})
    wrapper = flower.DifferentialPrivacyClientSideFixedClipping(flower.FedAvg(), 0.0, 1e-6, 3)
    result = wrapper.start(make_grid(3), zeros, num_rounds=1).arrays
    moved = np.linalg.norm(result["weight"].numpy() - zeros["weight"].numpy())
    assert moved > 1e-2  # a clipped one could not move farther than 1e-6


def test_a_stateless_record_restores_nothing(make_grid: Any) -> None:
    adam = External(construct_at(PREFIX + "FedAdam", {}))
    restore(adam, RecordDict())
    assert adam.inner.m_t is None  # type: ignore[attr-defined]

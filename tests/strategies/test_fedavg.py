"""FedAvg and FedProx: right under Flower's own loop and under one that hands them replies as they arrive."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from conf.errors import WireError
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.wire.half_types import numbers, rounded
from strategies.wire.objects import BFLOAT16, Pieces, as_declared, view
from tests.strategies.test_robust_rules import Named


def flat(arrays: ArrayRecord | None) -> dict[str, tuple[str, bytes]]:
    assert arrays is not None
    return {name: (a.dtype, a.numpy().tobytes()) for name, a in arrays.items()}


def asked(strategy: FedAvg, grid: Any, model: ArrayRecord, round: int = 1) -> list[Message]:
    return list(strategy.configure_train(round, model, ConfigRecord(), grid))


def test_every_node_of_the_grid_is_asked_in_the_order_of_its_id(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid = make_grid(4)
    train = asked(FedAvg(), grid, model, round=7)
    evaluate = list(FedAvg().configure_evaluate(7, model, ConfigRecord({"lr": 0.1}), grid))
    assert [m.metadata.dst_node_id for m in train] == sorted(grid.nodes)
    assert [m.metadata.dst_node_id for m in evaluate] == sorted(grid.nodes)
    assert {m.metadata.message_type for m in train} == {"train"}
    assert {m.metadata.message_type for m in evaluate} == {"evaluate"}
    assert train[0].content["config"]["server-round"] == 7
    assert dict(evaluate[0].content["config"]) == {"lr": 0.1, "server-round": 7}


def test_the_model_is_the_mean_weighted_by_examples_in_the_order_and_dtypes_sent(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, strategy = make_grid(3), FedAvg()
    replies = grid.send_and_receive(asked(strategy, grid, model))
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None and metrics is not None
    assert list(arrays) == list(model) and [a.dtype for a in arrays.values()] == [
        a.dtype for a in model.values()
    ]
    weights = [r.content["metrics"]["num-examples"] for r in replies]
    for name in ("weight", "bias", "bn.running_var"):
        parts = [r.content["arrays"][name].numpy().astype(np.float64) for r in replies]
        oracle = sum(n * w for n, w in zip(weights, parts, strict=True)) / sum(weights)
        np.testing.assert_array_equal(arrays[name].numpy(), oracle.astype(np.float32))
    counted = [int(r.content["arrays"]["bn.num_batches_tracked"].numpy()) for r in replies]
    assert len(set(counted)) > 1 and arrays["bn.num_batches_tracked"].numpy() == max(counted)
    losses = [r.content["metrics"]["loss"] for r in replies]
    assert metrics["num-examples"] == sum(weights)
    assert metrics["loss"] == pytest.approx(np.average(losses, weights=weights))


@pytest.mark.parametrize("make", [FedAvg, lambda: FedProx(0.5)])
def test_flowers_own_loop_and_one_that_hands_over_replies_one_by_one_give_the_same_bits(
    make: Callable[[], FedAvg], make_grid: Any, model: ArrayRecord
) -> None:
    stock = make().start(make_grid(3), model, num_rounds=2)

    grid, strategy, arrays = make_grid(3), make(), model
    for number in (1, 2):
        replies = grid.send_and_receive(asked(strategy, grid, arrays, number))
        new, _ = strategy.aggregate_train(number, iter(replies[::-1]))
        assert new is not None
        arrays = new
        evaluated = grid.send_and_receive(
            strategy.configure_evaluate(number, arrays, ConfigRecord(), grid)
        )
        metrics = strategy.aggregate_evaluate(number, iter(evaluated[::-1]))
        assert metrics == stock.evaluate_metrics_clientapp[number]
    assert flat(arrays) == flat(stock.arrays)
    assert set(stock.train_metrics_clientapp) == set(stock.evaluate_metrics_clientapp) == {1, 2}


def test_each_reply_is_freed_before_the_next_is_asked_for(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, strategy = make_grid(4), FedAvg()
    messages = asked(strategy, grid, model)

    def arriving() -> Iterator[Message]:
        before: weakref.ref[Message] | None = None
        for message in messages:
            reply = grid.reply(message)
            assert before is None or before() is None
            before = weakref.ref(reply)
            yield reply
            del reply

    gc.disable()  # a reply must go when it is dropped, not when the collector comes by
    try:
        assert strategy.aggregate_train(1, arriving())[0] is not None
    finally:
        gc.enable()


def test_the_peak_of_memory_is_the_same_for_six_silos_and_for_twelve(make_grid: Any) -> None:
    big = ArrayRecord({f"w{i}": Array(np.zeros(30_000, np.float32)) for i in range(10)})

    def peak(silos: int) -> int:
        grid, strategy = make_grid(silos), FedAvg()
        messages = asked(strategy, grid, big)
        tracemalloc.start()
        strategy.aggregate_train(1, (grid.reply(message) for message in messages))
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert abs(peak(12) - peak(6)) < 300_000


def test_replies_that_are_errors_are_passed_over(make_grid: Any, model: ArrayRecord) -> None:
    grid, strategy = make_grid(3), FedAvg()
    messages = asked(strategy, grid, model)
    good = [grid.reply(m) for m in messages[1:]]
    failed = Message(Error(0, "out of memory"), reply_to=messages[0])
    assert flat(strategy.aggregate_train(1, [failed, *good])[0]) == flat(
        strategy.aggregate_train(1, good)[0]
    )
    assert strategy.aggregate_train(1, [failed]) == (None, None)
    assert strategy.aggregate_evaluate(1, [failed]) is None


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"metrics": MetricRecord({"num-examples": 3})}, "MDW-665"),
        (
            {
                "arrays": ArrayRecord({"weight": Array(np.ones(1))}),
                "metrics": MetricRecord({"loss": 1.0}),
            },
            "MDW-665",
        ),
        (
            {
                "arrays": ArrayRecord({"weight": Array(np.ones(1))}),
                "metrics": MetricRecord({"num-examples": 1}),
            },
            "MDW-660",
        ),
    ],
)
def test_a_reply_that_can_not_be_averaged_is_a_clear_error(
    content: dict[str, Any], code: str, make_grid: Any, model: ArrayRecord
) -> None:
    strategy = FedAvg()
    message = asked(strategy, make_grid(1), model)[0]
    with pytest.raises(WireError) as caught:
        strategy.aggregate_train(1, [Message(content=RecordDict(content), reply_to=message)])
    assert caught.value.code == code


def test_bfloat16_which_numpy_reads_as_whole_numbers_is_not_taken_for_a_counter(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy, grid = FedAvg(), make_grid(1)
    reply = grid.reply(asked(strategy, grid, model)[0])
    reply.content["arrays"]["bias"] = Pieces("bfloat16", (3,), [memoryview(bytes(6))])
    with pytest.raises(WireError, match=r"MDW-660.*'bias' is bfloat16"):
        strategy.aggregate_train(1, [reply])


@pytest.mark.parametrize("cohort", [None, 3], ids=["as they arrive", "held"])
def test_the_mean_of_halves_is_rounded_once_to_the_type_that_was_sent(
    make_grid: Any, half_model: ArrayRecord, cohort: int | None
) -> None:
    grid, strategy = make_grid(3), FedAvg()
    strategy.cohort = cohort
    # One array whose changes are averaged, and not its values.
    half_model["large"] = as_declared(BFLOAT16, np.full(5, 0x4396, np.uint16))
    replies = grid.send_and_receive(asked(strategy, grid, half_model))
    named = Named([(name, reply) for name, reply in zip("abc", replies, strict=True)])
    arrays, _ = strategy.aggregate_train(1, named)
    assert arrays is not None and not named.refused
    assert {n: a.dtype for n, a in arrays.items()} == {n: a.dtype for n, a in half_model.items()}
    weights = [int(reply.content["metrics"]["num-examples"]) for reply in replies]
    for name in ("weight", "bias", "large"):
        parts = [numbers(reply.content["arrays"][name]).astype(np.float64) for reply in replies]
        before = numbers(half_model[name]) if name == "large" else np.zeros(())
        exact = [n * (part - before) for n, part in zip(weights, parts, strict=True)]
        mean = (exact[0] + exact[1] + exact[2]) / sum(weights) + before
        wanted = as_declared(half_model[name].dtype, rounded(mean, half_model[name].dtype))
        assert view(arrays[name]) == view(wanted), name
    assert not np.array_equal(numbers(arrays["weight"]), numbers(half_model["weight"]))


def test_one_update_of_halves_alone_comes_back_bit_for_bit(
    make_grid: Any, half_model: ArrayRecord
) -> None:
    grid, strategy = make_grid(1), FedAvg()
    (reply,) = grid.send_and_receive(asked(strategy, grid, half_model))
    arrays, _ = strategy.aggregate_train(1, [reply])
    assert arrays is not None
    for name, array in reply.content["arrays"].items():
        assert view(arrays[name]) == view(array) and arrays[name].dtype == array.dtype

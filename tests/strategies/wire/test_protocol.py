"""A model comes back from the wire as it went: names, order, shapes, types."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from strategies.wire import protocol

STATE = {
    "weight": torch.tensor([[1.5, -2.0], [0.0, 3.0]]),
    "tracked": torch.tensor(7),
    "mask": torch.tensor([True, False]),
}


def test_a_state_comes_back_with_names_order_types_and_values() -> None:
    back = protocol.to_state(protocol.to_record(STATE))
    assert list(back) == list(STATE)
    for name, tensor in STATE.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_types_travel_as_they_are(half: torch.dtype) -> None:
    state = {"w": torch.tensor([0.5, -1.0, 3.1], dtype=half)}
    record = protocol.to_record(state)
    assert record["w"].dtype == str(half).removeprefix("torch.")
    assert protocol.size(RecordDict({"a": record})) == 6
    back = protocol.to_state(record)["w"]
    assert back.dtype == half and torch.equal(back, state["w"])
    back += 1  # it may be trained


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_what_an_algorithm_sends_beside_the_model_is_float32(half: torch.dtype) -> None:
    record = protocol.to_wide_record({"c": torch.tensor([0.5, -1.0], dtype=half)})
    assert record["c"].dtype == "float32"
    assert protocol.to_numpy(record)["c"].tolist() == [0.5, -1.0]


def test_a_state_that_was_read_is_a_copy_that_may_be_trained() -> None:
    record = protocol.to_record(STATE)
    state = protocol.to_state(record)
    state["weight"] += 1
    assert protocol.to_numpy(record)["weight"].tolist() == STATE["weight"].tolist()


def test_records_are_told_apart_by_their_kind() -> None:
    content = RecordDict(
        {"a": protocol.to_record(STATE), "c": ConfigRecord({"x": 1}), "m": MetricRecord({"y": 2})}
    )
    assert list(protocol.records(content, ArrayRecord)) == ["a"]
    assert list(protocol.records(content, ConfigRecord)) == ["c"]
    assert list(protocol.records(content, MetricRecord)) == ["m"]


def test_reading_the_records_of_a_reply_does_not_keep_it_alive() -> None:
    content = RecordDict({"a": protocol.to_record(STATE)})
    alive = weakref.ref(content)
    gc.disable()
    try:
        protocol.records(content, ArrayRecord)
        del content
        assert alive() is None
    finally:
        gc.enable()


def test_the_size_is_that_of_the_values_of_all_arrays() -> None:
    floats = ArrayRecord({"a": Array(np.zeros((2, 3), np.float32)), "b": Array(np.zeros(()))})
    more = ArrayRecord({"c": Array(np.zeros(5, np.int8)), "d": Array(np.zeros((0, 9)))})
    content = RecordDict({"one": floats, "two": more, "c": ConfigRecord({"x": "long" * 99})})
    assert protocol.size(content) == 6 * 4 + 8 + 5

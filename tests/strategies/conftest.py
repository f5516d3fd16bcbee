"""A grid in memory: each node answers with the model it got, moved by noise of its own, and with its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from strategies.wire.half_types import as_sent, numbers, rounded
from strategies.wire.objects import BFLOAT16, as_declared
from tests.unused_grid import UnusedGrid


class FakeGrid(UnusedGrid):
    """Node k has 10 + k examples; its answer depends on k, the round and what it was sent, on nothing else."""

    def __init__(self, nodes: int) -> None:
        self.nodes = [900 - k for k in range(nodes)]
        self.asked: list[Message] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        self.asked += sent
        return [self.reply(message) for message in sent]

    def reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        round_ = int(message.content["config"]["server-round"])
        rng = np.random.default_rng([node, round_])
        metrics = MetricRecord(
            {"num-examples": 10 + self.nodes.index(node), "loss": float(rng.uniform(0.5, 1))}
        )
        content = RecordDict({"metrics": metrics})
        if message.metadata.message_type == "train":
            content["arrays"] = ArrayRecord(
                {name: _moved(array, rng) for name, array in message.content["arrays"].items()}
            )
        return Message(content=content, reply_to=message)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)


def _moved(array: Array, rng: np.random.Generator) -> Array:
    values = numbers(array)
    if values.dtype.kind == "i":
        return Array(np.asarray(values + rng.integers(1, 9), values.dtype))
    return as_sent(np.asarray(values + rng.normal(0, 0.1, values.shape)), array)


@pytest.fixture
def make_grid(task_identity: None) -> Callable[[int], FakeGrid]:
    """Return the grid's class; a message can be made while the fixture is in use."""
    return FakeGrid


@pytest.fixture
def model() -> ArrayRecord:
    """A small model with BatchNorm's buffers, in the order of a state dict."""
    rng = np.random.default_rng(0)
    return ArrayRecord(
        {
            "weight": Array(rng.normal(size=(4, 3)).astype(np.float32)),
            "bn.running_var": Array(np.ones(3, np.float32)),
            "bn.num_batches_tracked": Array(np.asarray(0, np.int64)),
            "bias": Array(np.zeros(3, np.float32)),
        }
    )


@pytest.fixture
def half_model(model: ArrayRecord) -> ArrayRecord:
    """The same model with weights of bfloat16, and a bias of float16."""
    made = ArrayRecord()
    for name, array in model.items():
        made[name] = array
    weight = numbers(model["weight"])
    made["weight"] = as_declared(BFLOAT16, rounded(weight, BFLOAT16))
    made["bias"] = Array(np.full(3, 0.1, np.float16))
    return made

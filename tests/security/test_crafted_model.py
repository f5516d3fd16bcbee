"""A server that crafts a model to get training examples back is refused by name, where a silo's owner allows what an
honest run asked for and nothing else (version 2 of a policy).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from client.app import app
from client.silo_settings import NODE_KEY
from conf.allowed import draft
from conf.border import CrossedError
from conf.compose import compose
from conf.schema import PolicyConf, Silo
from conf.silos import silo_to_json
from strategies.wire import protocol, run_config

pytestmark = pytest.mark.usefixtures("task_identity")
UNITS = 1024
HONEST = ["task=digits", "model=mlp", "run.rounds=5"]
CRAFTED = [
    *HONEST,
    f"model.hidden=[{UNITS}]",
    "trainer.lr=1e5",
    "trainer.momentum=0",
    "trainer.batch_size=100000",
]
STRICT: dict[str, Any] = {
    "tasks": ["digits"],
    "models": ["mlp"],
    "strategies": ["fedavg"],
    "epochs_at_most": 1,
    "rounds_at_most": 5,
    "examples_at_least": 100,
}
"""The first version of a policy with all of its keys set."""


def trap() -> dict[str, Tensor]:
    """Return weights with which each training example moves one unit more than the one beside it.

    All rows of the first layer look along one direction, and each unit begins a little further on.
    """
    draws = torch.Generator().manual_seed(0)
    direction = torch.rand(64, generator=draws) + 0.5
    direction /= direction.sum()
    cuts = torch.linspace(0.1, 0.6, UNITS)
    return {
        "1.weight": direction.repeat(UNITS, 1),
        "1.bias": -cuts,
        "3.weight": torch.ones(10, UNITS) / UNITS * torch.arange(10).unsqueeze(1),
        "3.bias": torch.zeros(10),
    }


def ask(overrides: list[str], weights: dict[str, Tensor], policy: PolicyConf) -> Message:
    text = run_config.pack(compose(overrides))
    config = ConfigRecord(
        {
            protocol.PROTOCOL_KEY: protocol.PROTOCOL,
            protocol.RUN_ID: "run",
            protocol.ROUND: 1,
            protocol.RUN_CONFIG: text,
            protocol.RUN_DIGEST: run_config.digest(text),
        }
    )
    content = RecordDict({protocol.ARRAYS: protocol.to_record(weights), protocol.CONFIG: config})
    silo = Silo("north", data=compose(HONEST).data, policy=policy)
    node = {NODE_KEY: silo_to_json(silo)}
    context = Context(1, 2, {**node}, state=RecordDict(), run_config={})
    return app(Message(content, 2, "train"), context)


def given_back(reply: Message, sent: dict[str, Tensor]) -> int:
    """Return how many units of the trap hold one example: a row whose values are its own pixels."""
    received = protocol.to_state(protocol.records(reply.content, ArrayRecord)[protocol.ARRAYS])
    rows = (received["1.weight"] - sent["1.weight"]).double()
    bias = (received["1.bias"] - sent["1.bias"]).double()
    differences = rows[:-1] - rows[1:]
    scale = bias[:-1] - bias[1:]
    caught = scale.abs() > 1e-6
    pixels = differences[caught] / scale[caught].unsqueeze(1) * 16
    # Digits have 17 shades: what is an example in every pixel is one to the eye.
    whole = (pixels - pixels.round()).abs().amax(1) < 0.1
    inside = (pixels.amin(1) > -0.1) & (pixels.amax(1) < 16.1)
    return int((whole & inside & (pixels.amax(1) > 8)).sum())


def test_the_first_version_of_a_policy_does_not_protect_examples() -> None:
    sent = trap()
    assert given_back(ask(CRAFTED, sent, PolicyConf(**STRICT)), sent) > 50


def test_a_policy_drafted_from_an_honest_run_refuses_the_crafted_one_by_name() -> None:
    closed = PolicyConf(version=2, allow=draft(compose(HONEST)))
    with pytest.raises(CrossedError) as caught:
        ask(CRAFTED, trap(), closed)
    said = str(caught.value)
    assert said.startswith('MDW-341 {"refused":')
    for key in (
        f"model.hidden=[{UNITS}]",
        "trainer.lr=100000.0",
        "trainer.momentum=0.0",
        "trainer.batch_size=100000",
    ):
        assert key in said

"""A silo's ClientApp without data: what it answers is a function of the model, its name and the round.

So any update can be made again, by whoever has the model that was sent. One silo may be a liar, which
in some rounds answers with something that must not count; which rounds, and how, is drawn too.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client import wanted
from client.context_state import state_mod
from client.silo_settings import silo_of
from strategies.wire import protocol
from tests.server.round.scripted_grid import sums_of

SETTINGS: Final = "MEADOW_CHAOS"
"""In the environment, as JSON: `seconds` by phase, `begun` (the file in which each beginning of a
phase is noted), `liar`."""

app = ClientApp(mods=[state_mod])


def examples_of(silo: str) -> int:
    """Return how many examples a silo says that it has."""
    return 10 + 3 * int(silo.rpartition("-")[2])


def update_of(sent: ArrayRecord, silo: str, round: int) -> RecordDict:
    """Return a silo's honest update of the model that it was sent."""
    drawn = np.random.default_rng([round, *silo.encode()])
    arrays = ArrayRecord()
    for name in sorted(sent):
        values = sent[name].numpy()
        if values.dtype.kind == "f":
            step = drawn.standard_normal(values.shape, dtype=np.float32) * np.float32(0.01)
            values = values + step.astype(values.dtype)
        arrays[name] = Array(np.asarray(values))
    numbers = MetricRecord({protocol.NUM_EXAMPLES: examples_of(silo), protocol.LOSS: 1.0 / round})
    return RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: numbers})


def lies(silo: str, round: int) -> bool:
    """Return whether the liar lies in a round."""
    return random.Random(f"lies/{silo}/{round}").random() < 0.6


def lie_of(sent: ArrayRecord, silo: str, round: int) -> RecordDict:
    """Return what the liar sends in place of its update."""
    return random.Random(f"lie/{silo}/{round}").choice(LIES)(update_of(sent, silo, round))


def _first(content: RecordDict, values: Callable[[np.ndarray], np.ndarray]) -> RecordDict:
    arrays = protocol.records(content, ArrayRecord)[protocol.ARRAYS]
    name = max(arrays, key=lambda one: arrays[one].numpy().size)
    arrays[name] = Array(values(arrays[name].numpy()))
    return content


def _number(content: RecordDict, name: str, value: Any) -> RecordDict:
    content[protocol.METRICS][name] = value
    return content


def _without(content: RecordDict) -> RecordDict:
    arrays = protocol.records(content, ArrayRecord)[protocol.ARRAYS]
    del arrays[next(iter(arrays))]
    return content


def _raises(content: RecordDict) -> RecordDict:
    raise RuntimeError("this silo's data is none of your business")


LIES: Final[list[Callable[[RecordDict], RecordDict]]] = [
    lambda content: _first(content, lambda values: np.full_like(values, np.nan)),
    lambda content: _first(content, lambda values: np.full_like(values, 3e38)),
    lambda content: _first(content, lambda values: values[:1]),
    lambda content: _first(content, lambda values: values.astype(np.float64)),
    lambda content: _number(content, protocol.NUM_EXAMPLES, 2**62),
    lambda content: _number(content, protocol.NUM_EXAMPLES, -1),
    lambda content: _number(content, protocol.SECONDS, -1.0),
    lambda content: RecordDict({**content, "more": MetricRecord({"a": 1})}),
    _without,
    _raises,
]
"""Each of them must be refused, whatever the model is."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the update, or a lie."""
    silo = silo_of(context).name
    round = _begin("train", silo, message)
    sent = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
    liar = silo == _settings()["liar"] and lies(silo, round)
    content = lie_of(sent, silo, round) if liar else update_of(sent, silo, round)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with sums that anybody could have."""
    silo = silo_of(context).name
    round = _begin("evaluate", silo, message)
    examples = examples_of(silo)
    numbers = MetricRecord({protocol.NUM_EXAMPLES: examples, protocol.LOSS: 1.0 / round})
    content = RecordDict({protocol.METRICS: numbers, protocol.SUMS: sums_of(examples, 1.0 / round)})
    return Message(content, reply_to=message)


@app.query("ready")
def ready(message: Message, context: Context) -> Message:
    """Say that it is ready."""
    return Message(RecordDict(), reply_to=message)


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(os.environ[SETTINGS])
    return settings


def _begin(phase: str, silo: str, message: Message) -> int:
    """Note the beginning of a phase, take its time, and return the round."""
    settings = _settings()
    config = message.content[protocol.CONFIG]
    round = int(config[protocol.ROUND])
    said = {"phase": phase, "silo": silo, "round": round, "run": config[protocol.RUN_ID]}
    with open(settings["begun"], "a") as file:
        file.write(json.dumps(said) + "\n")
    # By a clock that no step moves.
    end = time.monotonic() + settings["seconds"][phase]
    while time.monotonic() < end:
        wanted.check()
        time.sleep(0.05)
    return round

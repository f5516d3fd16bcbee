"""A ClientApp for runs with real rounds: training is one addition, and the environment says how long each phase
takes and where to note that it was begun."""

from __future__ import annotations

import json
import os
import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.context_state import state_mod
from client.silo_settings import silo_of
from strategies.wire import protocol
from tests.server.round.scripted_grid import sums_of, weights

SECONDS = "MEADOW_TEST_SECONDS"
"""In the environment: seconds by phase, as JSON."""
BEGUN = "MEADOW_TEST_BEGUN"
"""In the environment: the file in which each beginning of a phase is noted."""

app = ClientApp(mods=[state_mod])


def _take_time(phase: str, silo: str, round: object) -> None:
    with open(os.environ[BEGUN], "a") as file:
        file.write(json.dumps({"phase": phase, "silo": silo, "round": round}) + "\n")
    time.sleep(json.loads(os.environ[SECONDS])[phase])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Add the silo's number to the model."""
    silo = silo_of(context)
    _take_time("train", silo.name, message.content["config"]["server-round"])
    sent = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
    content = RecordDict({protocol.METRICS: _metrics()})
    content[protocol.ARRAYS] = weights(sent["w"].numpy() + silo.index + 1)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Say a loss that falls from silo to silo."""
    silo = silo_of(context)
    _take_time("evaluate", silo.name, message.content["config"]["server-round"])
    content = RecordDict({protocol.METRICS: _metrics()})
    content[protocol.SUMS] = sums_of(10, 1.0 / (silo.index + 1))
    return Message(content, reply_to=message)


def _metrics() -> MetricRecord:
    return MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 1.0})

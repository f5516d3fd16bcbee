"""Meadow's own ClientApp with a memory: what it sends depends on what this silo did before, to the last bit."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from client import app as meadow
from client.context_state import state_mod
from strategies.wire import protocol

app = ClientApp(mods=[state_mod])
APP = "tests.faults.stateful:app"


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train, then move the update by what the rounds before have left."""
    reply = meadow.train(message, context)
    sent = protocol.to_numpy(reply.content[protocol.ARRAYS])
    before = protocol.to_numpy(context.state.get("drift", ArrayRecord()))
    after, moved = ArrayRecord(), ArrayRecord()
    for name, array in sent.items():
        drift = before.get(name, np.zeros_like(array))
        moved[name] = Array(np.asarray(array + drift))
        after[name] = Array(np.asarray(drift * np.float32(0.5) + array * np.float32(0.01)))
    context.state["drift"] = after
    reply.content[protocol.ARRAYS] = moved
    return reply


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate as ever."""
    return meadow.evaluate(message, context)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which silo this is."""
    return meadow.hello(message, context)

"""A ClientApp whose answer depends, to the last bit, on what this silo answered before."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.context_state import state_mod
from client.silo_settings import silo_of
from strategies.wire import protocol

app = ClientApp(mods=[state_mod])
APP = "tests.faults.drifting:app"


@app.train()
def train(message: Message, context: Context) -> Message:
    """Add the silo's number and its drift to every array."""
    number = np.float32(silo_of(context).index + 1)
    before = protocol.to_numpy(context.state.get("drift", ArrayRecord()))
    sent, after = ArrayRecord(), ArrayRecord()
    for name, array in protocol.to_numpy(message.content["arrays"]).items():
        drift = before.get(name, np.zeros_like(array))
        sent[name] = Array(np.asarray(array + number.astype(array.dtype) + drift))
        moved = drift * 0.5 + array * 0.01 + number
        after[name] = Array(np.asarray(moved.astype(array.dtype)))
    context.state["drift"] = after
    metrics = MetricRecord({"num-examples": 10})
    return Message(RecordDict({"arrays": sent, "metrics": metrics}), reply_to=message)

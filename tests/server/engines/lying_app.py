"""A ClientApp that claims to have changed nothing: in a record, in its metrics and on the message."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return a model that has gone 3 in each of 10 coordinates, and say that it has gone nowhere."""
    update = ArrayRecord({"w": Array(np.full(10, 3.0, np.float32))})
    metrics = MetricRecord({"num-examples": 10, "loss": 0.5})
    lie = ConfigRecord({"squares": 0.0, "norm": 0.0, "digest": "00"})
    # What it was sent, too, so that the distance to that would be none.
    message.content["arrays"] = update
    reply = Message(
        RecordDict({"arrays": update, "metrics": metrics, "measured": lie}), reply_to=message
    )
    reply.__dict__["measured"] = lie
    reply.__dict__["beside"] = lie
    return reply

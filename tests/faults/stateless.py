"""A ClientApp that remembers nothing."""

from __future__ import annotations

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.context_state import state_mod

app = ClientApp(mods=[state_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Send back what came."""
    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)

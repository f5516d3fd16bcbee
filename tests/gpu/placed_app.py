"""A ClientApp that answers with what its process was given of a machine's GPUs."""

from __future__ import annotations

import os

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import placement

app = ClientApp()
NOT_SET = "not set"


@app.train()
def train(message: Message, context: Context) -> Message:
    """Say which silo this is, and what it sees."""
    told = ConfigRecord(
        {
            "partition": int(context.node_config["partition-id"]),
            "process": os.getpid(),
            "given": str(placement.given()),
            "mask": os.environ.get(placement.MASK, NOT_SET),
        }
    )
    return Message(RecordDict({"placed": told}), reply_to=message)

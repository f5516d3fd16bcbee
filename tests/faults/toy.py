"""A ClientApp whose training is one addition, with the ways to misbehave that the fault tests ask for."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client import wanted
from client.context_state import state_mod
from client.silo_settings import silo_of

app = ClientApp(mods=[state_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Add the silo's number to every array; `sleep`, `raise`, `kill` and `trained` come from the message's config."""
    config, silo = message.content["config"], silo_of(context)
    trained = config.get("trained-file")
    if trained:
        with open(str(trained), "a") as file:
            file.write(
                json.dumps({"silo": silo.name, "round": config["server-round"], "pid": os.getpid()})
                + "\n"
            )
    if config.get("raise") == silo.name:
        raise RuntimeError("the toy was told to raise")
    if config.get("kill") == silo.name:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.get("take") == silo.name:
        # Touched, page by page: what is only asked for takes nothing.
        held = np.ones(int(config["mib"]) << 20, dtype=np.uint8)
        assert held.sum() == int(config["mib"]) << 20
    if config.get("sleep-silo", silo.name) == silo.name:
        end = time.monotonic() + float(config.get("sleep", 0.0))
        while time.monotonic() < end:
            wanted.check()
            time.sleep(0.01)
    counter = context.state.setdefault("counter", ConfigRecord({"rounds": 0}))
    counter["rounds"] = int(counter["rounds"]) + 1
    arrays = ArrayRecord()
    for name, array in message.content["arrays"].items():
        values = array.numpy()
        arrays[name] = Array(np.asarray(values + np.asarray(silo.index + 1, dtype=values.dtype)))
    metrics = MetricRecord({"num-examples": 10 + silo.index, "rounds-seen": int(counter["rounds"])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.query("names")
def names(message: Message, context: Context) -> Message:
    """Say which records the app was given, so that a test sees that it never sees a packed one."""
    return Message(
        RecordDict({"seen": ConfigRecord({"records": sorted(message.content)})}), reply_to=message
    )

"""A tiny ClientApp for tests of the engines: what it does is said by the message's config."""

from __future__ import annotations

import os
import signal
import sys
import time

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from conf.errors import DataError

app = ClientApp()
calls = 0


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do what the config says, then return the arrays as they came, and who and how often this process is."""
    global calls
    calls += 1
    config = message.content.config_records.get("config", ConfigRecord())
    me = int(context.node_config["partition-id"])
    if me == config.get("partition", me):
        misbehave(config)
    print(f"train call {calls}", flush=True)
    state = context.state.setdefault("state", MetricRecord({"rounds": 0}))
    state["rounds"] = int(state["rounds"]) + 1
    metrics = MetricRecord(
        {"pid": os.getpid(), "calls": calls, "partition": me, "rounds": state["rounds"]}
    )
    content = RecordDict({"metrics": metrics, **message.content.array_records})
    if config.get("do") == "environment":
        ours = {name: value for name, value in os.environ.items() if name.startswith("MEADOW_")}
        more = {"silo": str(context.node_config["silo"])}
        more["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        content["environment"] = ConfigRecord({**ours, **more})
    return Message(content, reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which partition this is."""
    return Message(
        RecordDict({"m": MetricRecord({"partition": int(context.node_config["partition-id"])})}),
        reply_to=message,
    )


class Odd(Exception):
    """An exception that can't be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def called(model: ArrayRecord, argument: object) -> tuple[object, float, int]:
    """Do what the argument says, then return it, the sum of the model's first array, and who this is."""
    match argument:
        case "data error":
            raise DataError("MDW-202", "what", "hint")
        case "zero":
            raise ZeroDivisionError("no such number")
        case "odd":
            raise Odd(1, 2)
        case "exit":
            os._exit(9)
    return argument, float(model["w"].numpy().sum()), os.getpid()


def misbehave(config: ConfigRecord) -> None:
    """Fail, end or wait in the way that the config names."""
    if "path" in config:  # the first time only
        path = str(config["path"])
        if os.path.exists(path):
            return
        open(path, "w").close()
    match config.get("do"):
        case "raise":
            raise ValueError("no such\nlabel")
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit(3)
        case "sleep":
            time.sleep(float(config["seconds"]))
        case "block":  # deaf to everything but SIGKILL, as some native code is
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
            time.sleep(600)

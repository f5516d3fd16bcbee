"""A ClientApp that loses its device where it is told to: on a GPU for real, elsewhere by torch's error."""

from __future__ import annotations

import os

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.device_mod import device_mod
from client.silo_settings import silo_of

app = ClientApp(mods=[device_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute something on the device; before, lose it where this silo is to."""
    if message.content["config"]["poison"] == silo_of(context).name:
        lose()
    value = float(on_device().sum())
    told = ConfigRecord({"process": os.getpid(), "value": value})
    return Message(RecordDict({"told": told}), reply_to=message)


def on_device() -> torch.Tensor:
    return torch.ones(4, device="cuda" if torch.cuda.is_available() else "cpu")


def lose() -> None:
    """Do what an index outside of a table does, from which no later call of a process recovers."""
    if torch.cuda.is_available():
        torch._assert_async(torch.zeros(1, device="cuda"))
        torch.cuda.synchronize()
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def called(model: object, argument: object) -> None:
    """Lose the device in a call, as scoring may."""
    from client.device_failures import told

    with told():
        lose()

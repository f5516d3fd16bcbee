"""The fault tests' toy, which loses its device where the message's config names its silo."""

from __future__ import annotations

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.context_state import state_mod
from client.device_mod import device_mod
from client.silo_settings import silo_of
from tests.faults import toy

app = ClientApp(mods=[device_mod, state_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the toy does, or fail as torch does from an assertion on the device on."""
    if message.content["config"].get("poison") == silo_of(context).name:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    return toy.train(message, context)

"""A device's failure leaves the app as an error with a code, wherever in it the device failed."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from client.device_failures import told


def device_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer a message; raises DataError MDW-225 to 227, of which MDW-226 ends the process."""
    with told():
        return call_next(message, context)

"""Errors leave a silo as their codes and fields also where a node of Flower's own runs the app."""

from __future__ import annotations

import logging
from typing import Final

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from conf.border import CrossedError, across
from conf.errors import MeadowError

log = logging.getLogger(__name__)

OWN_NODE: Final = "meadow-node"
"""Key of the node configuration that a node of Meadow's own sets: it sees to its errors itself."""
_PARTITION: Final = "partition-id"
"""Key by which Flower and our pool number the silos of a simulation, where there is no border."""


def border_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let an error leave this process as its code and fields: Flower's node would send its text."""
    try:
        return call_next(message, context)
    except Exception as error:
        if OWN_NODE in context.node_config or _PARTITION in context.node_config:
            raise
        log.error("%s", error, exc_info=None if isinstance(error, MeadowError) else error)
        raise CrossedError(across(error)) from None

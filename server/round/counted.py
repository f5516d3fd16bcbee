"""Which round of each silo counted last: what its own state must be that of.

A silo's half of an algorithm remembers what it did (`client.memory`), and the server's half what
came of it. Both must mean the same rounds. An update that was lost, late or refused, or whose round
never closed, is not part of the model; so the silo goes on from the state before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict

from strategies.wire import protocol


def say_what_counted(
    messages: Iterable[Message], silos: Mapping[int, str], counted: Mapping[str, int]
) -> None:
    """Write into each message the last round in which an update of its silo counted.

    `silos` are the silos' names by node id. Messages that share their content go on sharing it with
    those of the same round: usually it is one for all of them.
    """
    told: dict[tuple[int, int], RecordDict] = {}
    for message in messages:
        config = message.content.get(protocol.CONFIG)
        if not isinstance(config, ConfigRecord):
            # A strategy of Flower's may name its record otherwise; no half of ours reads it.
            continue
        round = counted.get(silos[message.metadata.dst_node_id], 0)
        shared = (id(message.content), round)
        if shared not in told:
            own = ConfigRecord({**config, protocol.COUNTED: round})
            told[shared] = RecordDict({**message.content, protocol.CONFIG: own})
        message.content = told[shared]

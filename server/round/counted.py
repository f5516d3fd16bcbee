"""What each silo alone is told: which of its rounds counted last, and what its account was.

A silo's half of an algorithm remembers what it did (`client.memory`), and the server's half what
came of it. Both must mean the same rounds. An update that was lost, late or refused, or whose round
never closed, is not part of the model; so the silo goes on from the state before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict

from strategies.wire import protocol


def nothing(silo: str) -> str:
    """Return no reminder: of a silo that has given none, or a run that costs no account anything."""
    return ""


def say_what_counted(
    messages: Iterable[Message],
    silos: Mapping[int, str],
    counted: Mapping[str, int],
    reminder: Callable[[str], str] = nothing,
) -> None:
    """Write into each message the last round in which an update of its silo counted.

    `silos` are the silos' names by node id; `reminder` returns that of a silo's account
    (`server.store.account_reminders`). Messages that share their content go on sharing it with
    those of the same round: usually it is one for all of them.
    """
    told: dict[tuple[int, int, str], RecordDict] = {}
    for message in messages:
        config = message.content.get(protocol.CONFIG)
        if not isinstance(config, ConfigRecord):
            # A strategy of Flower's may name its record otherwise; no half of ours reads it.
            continue
        silo = silos[message.metadata.dst_node_id]
        round, account = counted.get(silo, 0), reminder(silo)
        shared = (id(message.content), round, account)
        if shared not in told:
            own = ConfigRecord({**config, protocol.COUNTED: round})
            if account:
                own[protocol.REMINDER] = account
            told[shared] = RecordDict({**message.content, protocol.CONFIG: own})
        message.content = told[shared]

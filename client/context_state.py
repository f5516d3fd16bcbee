"""A silo's own state, kept per run and round, so that a round asked again starts where it started before."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from strategies.wire import protocol

KEPT_ROUNDS = 2
"""Rounds whose resulting state is kept: the last one, and the one before it in case the last is asked again."""


def state_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Give what is inside the state after the last earlier round of this run, and keep what it leaves.

    The app and the other mods use `context.state` as if rounds were never repeated. Evaluation sees the same
    state and cannot change it.
    """
    config = protocol.records(message.content, ConfigRecord).get(protocol.CONFIG, ConfigRecord())
    run_id, round = config.get(protocol.RUN_ID), config.get(protocol.ROUND)
    if not isinstance(run_id, str) or not isinstance(round, int):
        return call_next(message, context)
    archive = context.state
    context.state = _before(archive, run_id, round)
    try:
        reply = call_next(message, context)
        if message.metadata.message_type.startswith("train"):
            archive = _archived(archive, run_id, round, context.state)
    finally:
        context.state = archive
    return reply


def _key(run_id: str, round: int, name: str) -> str:
    return f"{run_id}|{round}|{name}"


def _split(key: str) -> tuple[str, int, str]:
    run_id, round, name = key.split("|", 2)
    return run_id, int(round), name


def _before(archive: RecordDict, run_id: str, round: int) -> RecordDict:
    known = [_split(key) for key in archive]
    last = max((r for run, r, _ in known if run == run_id and r < round), default=None)
    return RecordDict(
        {name: archive[_key(run, r, name)] for run, r, name in known if run == run_id and r == last}
    )


def _archived(archive: RecordDict, run_id: str, round: int, state: RecordDict) -> RecordDict:
    kept = {
        k: v
        for k, v in archive.items()
        if _split(k)[0] != run_id or round - KEPT_ROUNDS < _split(k)[1] < round
    }
    return RecordDict(
        {**kept, **{_key(run_id, round, name): record for name, record in state.items()}}
    )

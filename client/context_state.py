"""A silo's own state, kept per run and round, so that a round asked again starts where it started
before.
"""

from __future__ import annotations

from typing import Final

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from conf.versions import Format
from strategies.wire import protocol

FORMAT: Final = Format("state of a silo", 1, fix="Delete the silo's state, or use another run.")
"""The version stands first in each record's name: `1|<run id>|<round>|<the app's own name>`."""


def state_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Give what is inside the state after the last round of this run that counted, and keep what
    it leaves.

    Which round that was is the server's word (`protocol.COUNTED`); where it says nothing, it is the
    last earlier one.
    The app and the other mods use `context.state` as if rounds were never repeated. Evaluation sees
    the same state and cannot change it. Raises CheckpointError: MDW-505 for a state of another
    version, MDW-506 for one that is damaged; a training that began without its state would be
    another training.
    """
    config = protocol.records(message.content, ConfigRecord).get(protocol.CONFIG, ConfigRecord())
    run_id, round = config.get(protocol.RUN_ID), config.get(protocol.ROUND)
    if not isinstance(run_id, str) or not isinstance(round, int):
        return call_next(message, context)
    archive = context.state
    counted = config.get(protocol.COUNTED)
    base = counted if isinstance(counted, int) else _last_before(archive, run_id, round)
    context.state = _after(archive, run_id, base)
    try:
        reply = call_next(message, context)
        if message.metadata.message_type.startswith("train"):
            archive = _archived(archive, run_id, base, round, context.state)
    finally:
        context.state = archive
    return reply


def _key(run_id: str, round: int, name: str) -> str:
    return f"{FORMAT.version}|{run_id}|{round}|{name}"


def _split(key: str) -> tuple[str, int, str]:
    """Return the run, the round and the app's own name in a key.

    Raises CheckpointError MDW-505 or MDW-506.
    """
    where = f"the record {key[:80]!r} of this silo's state"
    with FORMAT.reading(where):
        version, run_id, round, name = key.split("|", 3)
        if int(version) != FORMAT.version:
            raise FORMAT.of_another_version(where, int(version))
        return run_id, int(round), name


def _last_before(archive: RecordDict, run_id: str, round: int) -> int:
    """Return the last round of the run before this one that left a state, 0 without one."""
    known = [_split(key) for key in archive]
    return max((r for run, r, _ in known if run == run_id and r < round), default=0)


def _after(archive: RecordDict, run_id: str, round: int) -> RecordDict:
    """Return the state after a round of the run, under the app's own names."""
    known = [_split(key) for key in archive]
    names = [name for run, r, name in known if run == run_id and r == round]
    return RecordDict({name: archive[_key(run_id, round, name)] for name in names})


def _archived(
    archive: RecordDict, run_id: str, base: int, round: int, state: RecordDict
) -> RecordDict:
    """Return the archive with a round's state in it, and of the run's others only the one that the
    round began with: whether it counted shows when the silo is asked again.
    """
    kept = {}
    for key, record in archive.items():
        run, when, _ = _split(key)
        if run != run_id or (when == base and when != round):
            kept[key] = record
    for name, record in state.items():
        kept[_key(run_id, round, name)] = record
    return RecordDict(kept)


def holds(archive: RecordDict, run_id: str, round: int) -> bool:
    """Say whether an archive has a state that a round of a run left."""
    return any(key.startswith(_key(run_id, round, "")) for key in archive)


def versions(archive: RecordDict) -> dict[tuple[str, int], RecordDict]:
    """Return the states in an archive by run and round, each under the archive's own names.

    Put together they are the archive again. Raises CheckpointError MDW-505 or MDW-506.
    """
    found: dict[tuple[str, int], RecordDict] = {}
    for key, record in archive.items():
        run, round, _ = _split(key)
        found.setdefault((run, round), RecordDict())[key] = record
    return found

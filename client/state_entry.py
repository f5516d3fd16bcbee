"""One state of a silo as it is stored: a line of JSON that says whose it is, then the records.

The line holds the length and the SHA-256 of what follows it, so that a torn or damaged entry is
noticed. A silo's node stores an entry a file (`client.node.state_store`), a simulation those of all
its silos in one file (`server.run.silo_states`). The records are objects of Flower's wire, read
with every size checked; nothing is unpickled.

    MDW-505 written by another version     MDW-519 not what was written
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from flwr.app import Array, ArrayRecord, RecordDict

from conf.errors import WireError
from conf.versions import Format
from strategies.wire.objects import deflate, inflate_content

FORMAT: Final = Format(
    "state of a silo",
    1,
    damaged="MDW-519",
    fix="Restore it from a copy, or start a new run from this one's model (model.init).",
)
LARGEST: Final = 16 * 2**30
"""Bytes of arrays that a state may have: more than any update that may travel."""
LONGEST_LINE: Final = 4096
"""Bytes of an entry's line: two names and some numbers."""


@dataclass(frozen=True)
class StateEntry:
    """Whose state it is, after which round, and what follows."""

    silo: str
    run: str
    round: int
    head: int
    """Bytes of the list of objects, which comes first."""
    size: int
    """Bytes of list and objects."""
    sha256: str
    """Their digest, in hex."""

    def line(self) -> bytes:
        """Return the entry's first line."""
        return json.dumps(FORMAT.stamp | asdict(self)).encode() + b"\n"

    @staticmethod
    def of_line(line: bytes, where: object) -> StateEntry:
        """Return the entry that a line begins.

        Raises CheckpointError: MDW-519 for a damaged line, MDW-505 for another version.
        """
        raw = FORMAT.loads(line, where)
        with FORMAT.reading(where):
            for name in ("round", "head", "size"):
                if type(raw[name]) is not int or raw[name] < 0:
                    raise ValueError(f"its {name} is not a number")
            return StateEntry(
                silo=str(raw["silo"]),
                run=str(raw["run"]),
                round=raw["round"],
                head=raw["head"],
                size=raw["size"],
                sha256=str(raw["sha256"]),
            )


def encode(silo: str, run: str, round: int, state: RecordDict) -> tuple[StateEntry, list[bytes]]:
    """Return the entry of a state, and its bytes behind the entry's line, in parts."""
    root, _, contents = deflate(_with_plain_arrays(state))
    sizes = [[id, len(content)] for id, content in contents.items()]
    head = json.dumps({"root": root, "objects": sizes}).encode() + b"\n"
    parts = [head, *contents.values()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    size = sum(len(part) for part in parts)
    return StateEntry(silo, run, round, len(head), size, digest.hexdigest()), parts


def decode(entry: StateEntry, data: memoryview, where: object) -> RecordDict:
    """Return the records in the bytes behind an entry's line.

    Raises CheckpointError MDW-519 where they are not what was written.
    """
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise FORMAT.fault(where, "it does not have the digest that it was written with")
    with FORMAT.reading(where):
        head: dict[str, Any] = json.loads(bytes(data[: entry.head]))
        contents = {}
        at = entry.head
        for id, size in head["objects"]:
            contents[str(id)] = bytes(data[at : at + int(size)])
            at += int(size)
        try:
            return _with_plain_arrays(inflate_content(str(head["root"]), contents, LARGEST))
        except WireError as error:
            raise ValueError(str(error)) from error


def _with_plain_arrays(state: RecordDict) -> RecordDict:
    """Return the records with Flower's own arrays, which can be copied and pickled.

    Those of the wire are views of what came; and cutting an array into objects leaves these in it.
    """
    records = RecordDict()
    for name, record in state.items():
        if isinstance(record, ArrayRecord):
            plain = {key: Array(a.dtype, a.shape, a.stype, a.data) for key, a in record.items()}
            records[name] = ArrayRecord(plain)
        else:
            records[name] = record
    return records


def decode_whole(data: bytes, where: object) -> tuple[StateEntry, RecordDict]:
    """Return the one entry that some bytes are, and its records; raises as `decode` does."""
    with FORMAT.reading(where):
        end = data.index(b"\n", 0, LONGEST_LINE) + 1
    entry = StateEntry.of_line(data[:end], where)
    return entry, decode(entry, memoryview(data)[end:], where)

"""One stored state of a silo: read back whole, or refused by what is wrong with it."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.state_entry import StateEntry, decode_whole, encode
from conf.errors import CheckpointError


def state() -> RecordDict:
    arrays = {
        "w": Array(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "n": Array(np.array(3, np.int64)),
    }
    return RecordDict(
        {
            "1|run|3|c": ArrayRecord(arrays),
            "1|run|3|n": MetricRecord({"steps": 3, "rates": [0.5, 0.25]}),
            "1|run|3|t": ConfigRecord({"kind": "sgd", "raw": b"\x00\n\xff"}),
        }
    )


def stored(silo: str = "north") -> bytes:
    entry, parts = encode(silo, "run", 3, state())
    return entry.line() + b"".join(parts)


def test_all_kinds_of_records_come_back_as_they_were() -> None:
    entry, found = decode_whole(stored(), "the file")
    assert (entry.silo, entry.run, entry.round) == ("north", "run", 3)
    assert list(found) == list(state())
    for name, array in state()["1|run|3|c"].items():
        read = found["1|run|3|c"][name].numpy()
        assert read.dtype == array.numpy().dtype
        np.testing.assert_array_equal(read, array.numpy())
    assert dict(found["1|run|3|n"]) == dict(state()["1|run|3|n"])
    assert dict(found["1|run|3|t"]) == dict(state()["1|run|3|t"])


def test_the_same_state_is_the_same_bytes() -> None:
    assert stored() == stored()


def test_what_is_stored_or_read_can_still_be_copied() -> None:
    one = state()
    encode("north", "run", 3, one)
    for records in (one, decode_whole(stored(), "the file")[1]):
        # As the pool does; a view of what was read, or a cached object of the wire, can't be.
        assert list(copy.deepcopy(records)) == list(records)


@pytest.mark.parametrize("place", [0, 30, 150, 300, 600, -1])
def test_a_flipped_bit_is_noticed(place: int) -> None:
    data = bytearray(stored())
    data[place] ^= 1
    with pytest.raises(CheckpointError) as caught:
        entry, _ = decode_whole(bytes(data), "the file")
        # A changed name is a line like any other: who reads it must compare what it asked for.
        assert (entry.silo, entry.run, entry.round) == ("north", "run", 3)
    assert caught.value.code in ("MDW-519", "MDW-505") and "the file" in caught.value.message


@pytest.mark.parametrize("left", [0, 1, 100, 400, -1])
def test_a_torn_entry_is_noticed(left: int) -> None:
    with pytest.raises(CheckpointError, match="MDW-519"):
        decode_whole(stored()[:left], "the file")


@pytest.mark.parametrize(
    ("changed", "code"),
    [({"version": 2}, "MDW-505"), ({"size": -1}, "MDW-519"), ({"size": True}, "MDW-519"),
     ({"size": 2**60}, "MDW-519"), ({"head": 2**60}, "MDW-519"), ({"round": "3"}, "MDW-519"),
     ({"sha256": "00"}, "MDW-519")],
)  # fmt: skip
def test_a_line_that_says_something_else_is_refused(changed: dict[str, object], code: str) -> None:
    line, _, body = stored().partition(b"\n")
    with pytest.raises(CheckpointError, match=code):
        decode_whole(json.dumps(json.loads(line) | changed).encode() + b"\n" + body, "the file")


def test_a_line_as_long_as_it_likes_is_not_read() -> None:
    with pytest.raises(CheckpointError, match="MDW-519"):
        StateEntry.of_line(b"{" + b" " * 10_000, "the file")
    with pytest.raises(CheckpointError, match="MDW-519"):
        decode_whole(b" " * 10_000 + stored(), "the file")

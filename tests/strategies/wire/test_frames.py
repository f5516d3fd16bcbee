"""A head and the bytes behind it: read where they lie, and to the byte or not at all."""

from __future__ import annotations

import random

import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES
from google.protobuf.message import DecodeError

from strategies.wire.frames import Pile, contents_of, head_of, joined, range_of, write
from strategies.wire.objects import _chunk_head


def test_contents_are_found_behind_any_head() -> None:
    contents = [b"one", b"", b"three" * 100]
    for length in range(70):
        call = write(b"h" * length, contents)
        assert bytes(head_of(call)[4:]) == b"h" * length
        assert [bytes(one) for one in contents_of(call, [3, 0, 500])] == contents


def test_most_of_a_call_is_not_copied_and_the_rest_is() -> None:
    large, small = contents_of(write(b"head", [b"x" * 1000, b"y"]), [1000, 1])
    assert isinstance(large, memoryview) and isinstance(small, bytes)


def test_the_elements_of_a_whole_chunk_lie_where_they_can_be_read() -> None:
    start = len(_chunk_head(CHUNK_BYTES))
    for length in range(40):
        call = write(b"h" * length, [b"x" * 1000])
        assert (call.index(b"x") + start) % 16 == 0


@pytest.mark.parametrize("lengths", [[4], [2], [3, 1], [-1, 4], [2**62], [-(2**62), 2**62 + 3], []])
def test_lengths_that_do_not_fit_to_the_byte_are_refused(lengths: list[int]) -> None:
    with pytest.raises(DecodeError):
        contents_of(write(b"head", [b"abc"]), lengths)


@pytest.mark.parametrize("call", [b"", b"\0\0", b"\5\0\0\0abcd", b"\xff\xff\xff\xffabc"])
def test_a_head_that_ends_after_its_call_is_refused(call: bytes) -> None:
    with pytest.raises(DecodeError):
        head_of(call)


def test_whatever_arrives_is_read_or_refused() -> None:
    drawn = random.Random(1)
    for _ in range(2000):
        call = drawn.randbytes(drawn.randrange(80))
        if drawn.random() < 0.5:
            call = drawn.randrange(90).to_bytes(4, "little") + call
        lengths = [drawn.randrange(-3, 60) for _ in range(drawn.randrange(4))]
        try:
            contents = contents_of(call, lengths)
        except DecodeError:
            continue
        assert [len(one) for one in contents] == lengths


def test_a_pile_is_its_pieces_one_behind_the_other() -> None:
    pile = Pile([b"ab", memoryview(b"cdef")])
    assert len(pile) == 6 and bytes(pile) == joined(pile) == b"abcdef"
    assert range_of(pile, 0, 6) is pile
    assert bytes(range_of(pile, 1, 3)) == b"bcd" and bytes(range_of(b"abcdef", 4, 9)) == b"ef"

"""The calls of transfers in parts: what is written is read, and what is signed of one says all of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from google.protobuf.message import DecodeError

from strategies.wire import transfer_calls
from strategies.wire.frames import Pile, head_of, write
from strategies.wire.transfer_calls import (
    MOST_HEAD,
    MOST_PARTS,
    TRANSFER_CALLS,
    Part,
    PartsResponse,
    PullPartsRequest,
    PushPartsRequest,
    signed_bytes,
)

PUSH = f"/{transfer_calls.SERVICE}/PushParts"
WHOLE = b"all of it"
NAME = hashlib.sha256(WHOLE).hexdigest()


def pushing(*parts: Part) -> PushPartsRequest:
    return PushPartsRequest(Node(node_id=2**62), 2**63, "s", parts, 2**50)


def test_what_is_written_is_read() -> None:
    part = Part("a" * 64, 2**40, 2**41, b"\x00\xff")
    assert PushPartsRequest.from_bytes(pushing(part).to_bytes()) == pushing(part)
    begun = replace(pushing(Part(NAME, 0, len(WHOLE), WHOLE)), head=PushMessagesRequest())
    assert PushPartsRequest.from_bytes(begun.to_bytes()) == begun
    asked = PullPartsRequest(Node(node_id=5), 6, (Part("ab", 3),), 7, 8)
    assert PullPartsRequest.from_bytes(asked.to_bytes()) == asked
    answer = PartsResponse((Part("ab", 3, -1), Part("cd", 0, 9, WHOLE)))
    assert PartsResponse.from_bytes(answer.to_bytes()) == answer


def test_what_lies_in_pieces_travels_as_one() -> None:
    pile = Part(NAME, 0, len(WHOLE), Pile([WHOLE[:3], memoryview(WHOLE)[3:]]))
    assert pushing(pile).to_bytes() == pushing(Part(NAME, 0, len(WHOLE), WHOLE)).to_bytes()


def test_the_bytes_of_a_call_are_those_of_every_release() -> None:
    request = PullPartsRequest(Node(node_id=5), 6, (Part("ab", 3),), 7, 8)
    assert request.to_bytes().hex() == "120000000a02080510061a060a026162100320072808"
    answer = PartsResponse([Part("ab", 0, 3, b"abc")])
    assert answer.to_bytes().hex() == "0a0000000a080a02616218032003" + "00" * 14 + "616263"


def test_what_is_signed_of_a_call_tells_every_byte_behind_it() -> None:
    whole = pushing(Part(NAME, 0, len(WHOLE), WHOLE)).to_bytes()
    assert signed_bytes(PUSH, whole) == head_of(whole) and NAME.encode() in bytes(head_of(whole))
    some = pushing(Part(NAME, 2, len(WHOLE), WHOLE[2:])).to_bytes()
    assert hashlib.sha256(WHOLE[2:]).digest() in bytes(signed_bytes(PUSH, some))
    assert signed_bytes("/flwr.proto.Fleet/PushMessages", whole) == whole


def test_a_range_that_is_not_what_was_signed_is_refused() -> None:
    call = bytearray(pushing(Part(NAME, 2, len(WHOLE), WHOLE[2:])).to_bytes())
    call[-1] ^= 1
    with pytest.raises(DecodeError, match="not what its head says"):
        PushPartsRequest.from_bytes(bytes(call))


def test_a_call_of_too_many_parts_is_refused_before_any_is_made() -> None:
    many = pushing(*[Part(NAME)] * (MOST_PARTS + 1)).to_bytes()
    with pytest.raises(DecodeError, match=f"{MOST_PARTS} are allowed"):
        PushPartsRequest.from_bytes(many)


def test_a_head_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    empty_parts = b"\x22\x00" * MOST_HEAD
    for kind in (*TRANSFER_CALLS.values(), PartsResponse):
        with pytest.raises(DecodeError, match=f"{MOST_HEAD} are allowed"):
            kind.from_bytes(write(empty_parts, []))


def test_a_head_that_is_no_message_is_refused() -> None:
    for kind in (*TRANSFER_CALLS.values(), PartsResponse):
        with pytest.raises(DecodeError):
            kind.from_bytes(write(b"\xff\xff\xff", []))


def test_each_call_names_the_node_that_makes_it() -> None:
    for request in TRANSFER_CALLS.values():
        assert request.from_bytes(request(node=Node(node_id=5)).to_bytes()).node.node_id == 5

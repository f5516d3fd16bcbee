"""The messages of transfers in parts: what is written is read, and a call is what it was before."""

from __future__ import annotations

from flwr.proto.node_pb2 import Node

from strategies.wire.transfer_calls import (
    TRANSFER_CALLS,
    Part,
    PullPartsRequest,
    PushPartsRequest,
)


def test_what_is_written_is_read() -> None:
    part = Part(object_id="a" * 64, start=2**40, size=-1, content=b"\x00\xff")
    request = PushPartsRequest(
        node=Node(node_id=2**62), run_id=2**63, session_id="s", parts=[part], left=2**50
    )
    read = PushPartsRequest.FromString(request.SerializeToString())
    assert read == request and read.parts[0].content == b"\x00\xff"


def test_the_bytes_of_a_call_are_those_of_every_release() -> None:
    request = PullPartsRequest(
        node=Node(node_id=5), run_id=6, parts=[Part(object_id="ab", start=3)], most=7, left=8
    )
    assert request.SerializeToString().hex() == "0a02080510061a060a026162100320072808"


def test_each_call_names_the_node_that_makes_it() -> None:
    for request, _ in TRANSFER_CALLS.values():
        assert request.DESCRIPTOR.fields_by_name["node"].message_type.full_name == "flwr.proto.Node"

"""A silo's transfers in parts: what has arrived stays, and a call carries what the link takes in seconds."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node

from client.node import arrivals, transfers
from client.node.arrivals import Gap
from client.node.pace import FIRST_BYTES, LEAST_BYTES, MOST_BYTES, CallLost, Pace
from client.node.transfers import TransferLost, Transfers
from conf.errors import SiloError, WireError
from strategies.wire.frames import Buffer
from strategies.wire.transfer_calls import (
    ABSENT,
    MOST_HEAD,
    MOST_PARTS,
    Part,
    PartsResponse,
)


def named(*contents: bytes) -> dict[str, bytes]:
    return {hashlib.sha256(content).hexdigest(): content for content in contents}


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


class Server:
    """Objects to receive, and what has arrived of those that are sent; `before` may break a call."""

    def __init__(self, contents: dict[str, bytes] | None = None) -> None:
        self.contents = contents or {}
        self.arrived: dict[str, bytearray] = {}
        self.requests: list[Any] = []
        self.served = 0
        self.before: Callable[[int], None] = lambda call: None

    def once(self, name: str, request: Any, deadline: float) -> Any:
        self.requests.append(request)
        self.before(len(self.requests))
        return self._pull(request) if name == "PullParts" else self._push(request)

    def _pull(self, request: Any) -> Any:
        answer = []
        room = request.most
        for part in request.parts:
            content = self.contents.get(part.object_id)
            if content is None:
                answer.append(Part(part.object_id, size=ABSENT))
                continue
            piece = content[part.start : part.start + room]
            room -= len(piece)
            self.served += len(piece)
            answer.append(Part(part.object_id, part.start, len(content), piece))
        return PartsResponse(answer)

    def _push(self, request: Any) -> Any:
        answer = []
        for part in request.parts:
            here = self.arrived.setdefault(part.object_id, bytearray())
            content = bytes(part.content)
            self.served += len(content)
            if part.start <= len(here):
                here += content[len(here) - part.start :]
            answer.append(Part(part.object_id, len(here), part.size))
        return PartsResponse(answer)


def lose(*calls: int, slow: bool = False) -> Callable[[int], None]:
    def before(call: int) -> None:
        if call in calls:
            raise CallLost(slow)

    return before


def pull(transfers: Transfers, contents: dict[str, bytes]) -> dict[str, Buffer]:
    return transfers.pull(None, 1, list(contents)).contents


def push(transfers: Transfers, contents: dict[str, bytes]) -> bool:
    return transfers.push(None, 1, "session", contents, list(contents))


def test_a_small_message_takes_one_call() -> None:
    contents = named(*(f"object {i}".encode() for i in range(20)))
    server = Server(contents)
    assert pull(Transfers(server.once), contents) == contents
    assert len(server.requests) == 1
    assert push(Transfers(server.once), contents) and len(server.requests) == 2
    assert {id: bytes(part) for id, part in server.arrived.items()} == contents


def test_what_came_in_one_call_needs_no_confirmation() -> None:
    small, large = named(b"one", b"two"), named(random_bytes(600_000))
    node = Transfers(Server(small | large).once)
    assert node.pull(None, 1, list(small)).in_one_call
    assert not node.pull(None, 1, list(large)).in_one_call
    assert not node.pull(None, 1, list(large)).in_one_call, "it has them, and was sent none"
    again = Server(small)
    again.before = lose(1)
    pulled = Transfers(again.once).pull(None, 1, list(small))
    assert not pulled.in_one_call, "nobody knows what became of the first"


def test_a_small_reply_is_one_call_and_a_large_or_lost_one_is_left_to_the_others() -> None:
    server = Server()
    head = PushMessagesRequest(node=Node(node_id=5))
    small, large = named(b"one", b"two"), named(random_bytes(600_000))
    assert Transfers(server.once).push_at_once(head, 1, small)
    (request,) = server.requests
    assert request.head == head and request.node.node_id == 5 and not request.session_id
    assert not Transfers(server.once).push_at_once(head, 1, large)
    server.before = lose(2)
    assert not Transfers(server.once).push_at_once(head, 1, small)
    assert not Transfers(lambda *_: PartsResponse()).push_at_once(head, 1, small)


def test_a_large_message_arrives_whole_in_parts() -> None:
    contents = named(b"head", *(random_bytes(5_000_000, seed) for seed in range(4)))
    server = Server(contents)
    assert pull(Transfers(server.once), contents) == contents
    assert server.served == sum(map(len, contents.values())), "nothing is received twice"
    server = Server()
    assert push(Transfers(server.once), contents)
    assert {id: bytes(part) for id, part in server.arrived.items()} == contents


def test_a_lost_call_costs_no_more_than_itself() -> None:
    contents = named(random_bytes(3_000_000))
    server = Server(contents)
    server.before = lose(2, 3)
    assert pull(Transfers(server.once), contents) == contents
    assert server.served == 3_000_000
    server = Server()
    server.before = lose(2, 3)
    assert push(Transfers(server.once), contents)
    assert server.served == 3_000_000


def test_what_has_arrived_of_an_interrupted_message_is_not_asked_for_again() -> None:
    contents = named(b"head", random_bytes(1_000_000))
    server = Server(contents)

    def closed(call: int) -> None:
        if call == 2:
            raise TransferLost("the instruction is gone")

    server.before = closed
    node = Transfers(server.once)
    with pytest.raises(TransferLost):
        pull(node, contents)
    had = server.served
    assert had == FIRST_BYTES
    server.before = lose()
    another_head = named(b"another head")
    server.contents |= another_head
    copy = another_head | {id: one for id, one in contents.items() if len(one) > 10}
    assert pull(node, copy) == copy
    assert server.served == 1_000_000 + len(b"head") + len(b"another head")


def test_what_the_server_has_of_an_interrupted_upload_is_not_sent_again() -> None:
    contents = named(random_bytes(1_000_000))
    server = Server()

    def closed(call: int) -> None:
        if call == 2:
            raise TransferLost("the upload is gone")

    server.before = closed
    node = Transfers(server.once)
    with pytest.raises(TransferLost):
        push(node, contents)
    server.before = lose()
    assert push(node, contents)
    assert server.served == 1_000_000


def test_a_restarted_server_that_has_nothing_is_sent_everything() -> None:
    contents = named(random_bytes(1_000_000))
    server = Server()

    def restarted(call: int) -> None:
        if call == 3:
            server.arrived.clear()

    server.before = restarted
    assert push(Transfers(server.once), contents)
    assert {id: bytes(part) for id, part in server.arrived.items()} == contents


def test_an_upload_that_the_server_does_not_know_is_said_so() -> None:
    contents = named(b"one", b"two")
    assert not push(Transfers(lambda *_: PartsResponse()), contents)


def test_a_server_that_answers_and_moves_nothing_is_given_up() -> None:
    contents = named(random_bytes(1000))
    (id,) = contents

    def nothing(name: str, request: Any, deadline: float) -> Any:
        return PartsResponse([Part(id, size=1000)])

    with pytest.raises(TransferLost):
        pull(Transfers(nothing), contents)
    with pytest.raises(TransferLost):
        push(Transfers(nothing), contents)


def test_an_object_that_is_not_there_ends_the_transfer() -> None:
    contents = named(b"one", b"two")
    with pytest.raises(TransferLost):
        pull(Transfers(Server().once), contents)


def test_the_model_of_an_evaluation_is_not_received_again_for_the_next_training() -> None:
    model = named(random_bytes(200_000))
    evaluate = model | named(b"evaluate, round 1")
    train = model | named(b"train, round 2")
    server = Server(evaluate | train | named(b"are you ready?"))
    node = Transfers(server.once)
    pull(node, evaluate)
    pull(node, named(b"are you ready?"))
    before = server.served
    assert pull(node, train) == train
    assert server.served - before == len(b"train, round 2")


def test_another_model_takes_the_place_of_the_one_before() -> None:
    server = Server()
    node = Transfers(server.once)
    for round in range(5):
        server.contents = named(random_bytes(200_000, round), b"head")
        assert pull(node, server.contents) == server.contents
        assert node._arrivals._kept == server.contents, "one model, whatever the number of rounds"


def test_what_a_server_called_by_another_name_is_not_kept_for_the_next_one() -> None:
    model = named(random_bytes(200_000))
    (id,) = model
    liar = {id: random_bytes(200_000, seed=1)}
    server = Server(liar)
    node = Transfers(server.once)
    with pytest.raises(WireError, match="MDW-651"):
        pull(node, liar)
    server.contents = model | named(b"train, round 2")
    assert pull(node, server.contents) == server.contents


def test_what_is_kept_is_hashed_once_however_often_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed = []
    sha256 = hashlib.sha256

    def counting(data: bytes = b"") -> Any:
        hashed.append(len(data))
        return sha256(data)

    model = named(random_bytes(200_000))
    heads = [f"round {round}".encode() for round in range(4)]
    server = Server(model | named(*heads))
    node = Transfers(server.once)
    monkeypatch.setattr("client.node.arrivals.hashlib.sha256", counting)
    for head in heads:
        asked = model | {sha256(head).hexdigest(): head}
        assert pull(node, asked) == asked
    assert hashed.count(200_000) == 1


def test_a_model_that_is_too_large_to_be_kept_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "KEPT_BYTES", 100_000)
    contents = named(random_bytes(200_000))
    node = Transfers(Server(contents).once)
    assert pull(node, contents) == contents
    assert node._arrivals._kept == {}


def test_parts_of_another_object_are_found_by_the_digest() -> None:
    contents = named(random_bytes(600_000))
    server = Server(contents)
    id = next(iter(contents))

    def replaced(call: int) -> None:
        if call == 2:
            server.contents = {id: random_bytes(600_000, seed=1)}

    server.before = replaced
    node = Transfers(server.once)
    with pytest.raises(WireError, match="MDW-651"):
        pull(node, contents)
    server.contents, server.before = contents, lose()
    assert pull(node, contents) == contents, "what was wrong is not kept"


LIES = {
    "more bytes than it says": lambda id, more: Part(id, 0, 10, more),
    "an object of no bytes that has some": lambda id, more: Part(id, 0, 0, more),
    "a range that begins before the object": lambda id, more: Part(id, -1, 10**6, more),
    "an object that nobody asked for": lambda id, more: Part(
        next(iter(named(more))), 0, len(more), more
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_can_not_make_a_silo_hold_more_than_it_has_counted(lie: str) -> None:
    """Each lie is told as often as it is listened to, in a call of a megabyte."""
    more = random_bytes(10**6)
    id = next(iter(named(more if lie.startswith("an object of no") else b"the message")))
    told = []

    def once(name: str, request: Any, deadline: float) -> Any:
        told.append(name)
        assert len(told) < 20
        return PartsResponse([LIES[lie](id, more)])

    node = Transfers(once, most=10**6)
    with pytest.raises((WireError, TransferLost)):
        node.pull(None, 1, [id])
    held = [*node._arrivals._whole.values(), *node._arrivals._parts.values()]
    assert sum(map(len, held)) == 0


def test_an_object_whose_size_is_said_to_be_less_than_what_came_of_it_is_refused() -> None:
    content = random_bytes(600_000)
    (id,) = named(content)
    answers = [Part(id, 0, 900_000, content), Part(id, 600_000, 10, b"")]
    node = Transfers(lambda *_: PartsResponse([answers.pop(0)]))
    with pytest.raises(WireError, match="MDW-650"):
        node.pull(None, 1, [id])
    assert node._arrivals._parts == {}


def test_a_head_that_is_too_long_for_a_call_of_parts_is_left_to_flower_s_call() -> None:
    server = Server()
    head = PushMessagesRequest(node=Node(node_id=5))
    head.message_object_trees.add(object_id="x" * MOST_HEAD)
    assert not Transfers(server.once).push_at_once(head, 1, named(b"one")) and not server.requests


def test_a_call_carries_what_the_link_takes_in_two_seconds() -> None:
    pace = Pace()
    assert pace.bytes == FIRST_BYTES
    pace.carried(FIRST_BYTES, FIRST_BYTES / 62_500)
    assert pace.bytes == 125_000
    pace.carried(125_000, 0.01)
    assert pace.bytes == 250_000, "it doubles at most"
    for _ in range(5):
        pace.carried(pace.bytes, 0.01)
    assert pace.bytes == MOST_BYTES
    pace.lost(CallLost(slow=False))
    assert pace.bytes == MOST_BYTES // 2, "a link that is cut often carries short calls"
    pace.lost(CallLost(slow=True))
    assert pace.bytes == MOST_BYTES // 32
    for _ in range(5):
        pace.lost(CallLost(slow=True))
    assert pace.bytes == LEAST_BYTES


def test_a_small_call_says_nothing_of_the_rate() -> None:
    pace = Pace()
    pace.carried(100, 1.0)
    assert pace.bytes == FIRST_BYTES


def test_a_slow_link_carries_one_call_at_a_time() -> None:
    contents = named(*(random_bytes(400_000, seed) for seed in range(6)))
    server = Server(contents)
    open_calls: list[int] = []
    most: list[int] = []

    def once(name: str, request: Any, deadline: float) -> Any:
        open_calls.append(1)
        most.append(len(open_calls))
        answer = server.once(name, request, deadline)
        open_calls.pop()
        return answer

    node = Transfers(once)
    node._down._bytes = 100_000
    node._down.carried = lambda count, seconds: None  # type: ignore[method-assign]  # a link that stays slow
    assert pull(node, contents) == contents
    assert max(most) == 1
    assert all(request.most == 100_000 for request in server.requests)


def test_no_call_has_more_parts_than_the_server_takes() -> None:
    contents = named(*(f"object {i}".encode() for i in range(3 * MOST_PARTS)))
    server = Server(contents)
    assert pull(Transfers(server.once), contents) == contents
    assert push(Transfers(server.once), contents)
    assert max(len(request.parts) for request in server.requests) == MOST_PARTS


def test_what_is_left_is_told_with_each_call() -> None:
    contents = named(random_bytes(1_000_000))
    server = Server()
    assert push(Transfers(server.once), contents)
    assert [request.left for request in server.requests][-1] == 0
    assert server.requests[0].left == 1_000_000 - FIRST_BYTES


def test_a_transfer_that_takes_long_is_told_now_and_then_and_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = itertools.count(0.0, 4.0)
    caplog.set_level("INFO")
    told: list[tuple[str, int, float]] = []
    contents = named(random_bytes(3_000_000))
    node = Transfers(Server(contents).once, lambda *said: told.append(said), lambda: next(seconds))
    assert pull(node, contents) == contents
    assert push(node, contents)
    down = [left for direction, left, _ in told if direction == transfers.DOWN]
    up = [left for direction, left, _ in told if direction == transfers.UP]
    for lefts in (down, up):
        assert len(lefts) > 3 and lefts == sorted(lefts, reverse=True) and lefts[-1] == 0
    assert "receiving: " in caplog.text and "sending: " in caplog.text


def test_a_quick_transfer_is_told_to_nobody() -> None:
    contents = named(random_bytes(3_000_000))
    told: list[object] = []
    assert push(Transfers(Server().once, lambda *said: told.append(said)), contents)
    assert told == []


def test_a_gap_of_unknown_size_has_no_bytes_yet() -> None:
    assert Gap("a", 5, None).bytes == 0 and Gap("a", 5, 15).bytes == 10


def test_a_message_that_is_larger_than_it_may_be_is_refused_before_its_bytes_are_fetched() -> None:
    contents = named(*(bytes([i]) * 1_000_000 for i in range(8)))
    server = Server(contents)
    transfers = Transfers(server.once, most=5_000_000)
    with pytest.raises(SiloError, match=r"MDW-351.* is more than the 5000000 that this silo takes"):
        pull(transfers, contents)
    assert server.served < 5_000_000
    few = dict(list(contents.items())[:4])
    assert pull(transfers, few) == few, "another message is taken"

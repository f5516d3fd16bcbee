"""Objects in parts at the server: a node's own, within bounds, and continued where they were broken off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from server.orchestrator.deliveries import MOST
from server.orchestrator.fleet import Limits
from server.orchestrator.instructions import State
from server.orchestrator.kept_uploads import KeptUploads
from server.orchestrator.partial_objects import AT_ONCE
from server.round.exchange import NODE_UNAVAILABLE
from strategies.wire import transfer_calls
from strategies.wire.transfer_calls import (
    ABSENT,
    MOST_PARTS,
    Part,
    PullPartsRequest,
    PushPartsRequest,
)
from tests.faults.federation import Federation, ask, model
from tests.server.orchestrator.test_fleet import Scene, Silo, copy_of, update
from tests.server.orchestrator.test_instructions import is_in

SIZE = 20_000
"""Elements of a model and of an update: 80 kB."""


class PartSilo(Silo):
    """A node played by the test, with parts."""

    def parts(self, head: Message, *parts: Any, most: int = 10**6) -> list[Any]:
        run_id = head.metadata.run_id
        request = PullPartsRequest(node=self.node, run_id=run_id, parts=parts, most=most)
        return list(self.call("PullParts", request).parts)

    def begin(self, reply: Message) -> tuple[Any, dict[str, bytes]]:
        request, contents = self.head(reply)
        return self.call("PushMessages", request), contents

    def send(self, reply: Message, session: str, *parts: Any) -> list[Any]:
        return list(self.call("PushParts", self.sending(reply, session, *parts)).parts)

    def sending(self, reply: Message, session: str, *parts: Any) -> Any:
        run_id = reply.metadata.run_id
        return PushPartsRequest(node=self.node, run_id=run_id, session_id=session, parts=parts)


class Parts(Scene):
    """A scene whose silos have parts."""

    one: PartSilo
    two: PartSilo


def part(id: str, content: bytes, start: int = 0, end: int | None = None) -> Any:
    return Part(object_id=id, start=start, size=len(content), content=content[start:end])


def largest(contents: dict[str, bytes]) -> str:
    return max(contents, key=lambda id: len(contents[id]))


def ids_of(tree: ObjectTree) -> list[str]:
    return list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Parts]:
    federation = Federation(tmp_path)
    limits = Limits(call_bytes=200_000, update_bytes=300_000)
    with federation.orchestrator(limits=limits) as orchestrator:
        one = PartSilo.silo(federation, orchestrator.address, "silo-1")
        two = PartSilo.silo(federation, orchestrator.address, "silo-2")
        one.activate()
        two.activate()
        yield Parts(orchestrator, one, two, orchestrator.open_run("run", ["silo-1", "silo-2"]))


def asked(scene: Parts) -> tuple[list[str], Message, ObjectTree]:
    """Ask both silos, and hand the first its instruction."""
    ids = scene.grid.push_messages(ask(scene.grid, 1, model(SIZE, seed=1)))
    head, tree = scene.one.work()
    mine = [id for id in ids if id == head.metadata.message_id]
    return mine, head, tree


def gone(scene: Parts, ids: list[str]) -> None:
    """Let the first silo be thought to have gone, with what it was asked."""
    scene.orchestrator._fleet.nodes.left(scene.one.node.node_id)
    (reply,) = scene.grid.replies(ids, 5)
    assert reply.error.code == NODE_UNAVAILABLE


def test_an_instruction_is_read_in_ranges(scene: Parts) -> None:
    _, head, tree = asked(scene)
    whole = {id: scene.one.pull(head, id) for id in ids_of(tree)}
    answers = scene.one.parts(head, *(Part(object_id=id) for id in whole))
    assert {one.object_id: one.content for one in answers} == whole
    id = largest(whole)
    first, second = scene.one.parts(
        head, Part(object_id=id, start=100), Part(object_id=id, start=0), most=150
    )
    assert (first.content, first.size) == (whole[id][100:250], len(whole[id]))
    assert (second.content, second.size) == (b"", len(whole[id])), "no room was left for it"


def test_a_range_beyond_an_object_is_refused(scene: Parts) -> None:
    _, head, tree = asked(scene)
    run_id, node = head.metadata.run_id, scene.one.node
    for start in (10**6, -1):
        parts = [Part(object_id=tree.object_id, start=start)]
        request = PullPartsRequest(node=node, run_id=run_id, parts=parts, most=10)
        assert "MDW-650" in scene.one.refused("PullParts", request)


def test_what_is_another_s_or_not_asked_any_more_is_not_there(scene: Parts) -> None:
    _, head, tree = asked(scene)
    (answer,) = scene.two.parts(head, Part(object_id=tree.object_id))
    assert (answer.size, answer.content) == (ABSENT, b"")
    scene.one.confirm(head)
    (answer,) = scene.one.parts(head, Part(object_id=tree.object_id))
    assert answer.size == ABSENT


def test_a_call_with_no_or_too_many_parts_or_no_room_is_refused(scene: Parts) -> None:
    _, head, tree = asked(scene)
    run_id, node = head.metadata.run_id, scene.one.node
    many = [Part(object_id=tree.object_id)] * (MOST_PARTS + 1)
    for parts, most in ((many, 10), ([], 10), (many[:1], 0), (many[:1], -5)):
        request = PullPartsRequest(node=node, run_id=run_id, parts=parts, most=most)
        assert "MDW-644" in scene.one.refused("PullParts", request)


def test_a_silo_that_the_run_does_not_name_gets_and_sends_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        one = PartSilo.silo(federation, orchestrator.address, "silo-1")
        two = PartSilo.silo(federation, orchestrator.address, "silo-2")
        one.activate()
        two.activate()
        grid = orchestrator.open_run("run", ["silo-1"])
        grid.push_messages(ask(grid, 1, model(SIZE)))
        head, tree = one.work()
        run_id = head.metadata.run_id
        request = PullPartsRequest(
            node=two.node, run_id=run_id, parts=[Part(object_id=tree.object_id)], most=10
        )
        assert "MDW-645" in two.refused("PullParts", request)
        request = replace(request, node=one.node)
        assert "MDW-748" in two.refused("PullParts", request), "nor by another's name"


def test_a_reply_in_parts_is_the_reply(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    small = [part(one, contents[one]) for one in taken.objects_to_push if one != id]
    (here,) = scene.one.send(reply, taken.session_id, part(id, contents[id], 0, 30_000))
    assert here.start == 30_000
    (here,) = scene.one.send(reply, taken.session_id, part(id, contents[id], 20_000, 60_000))
    assert here.start == 60_000
    rest = part(id, contents[id], 60_000)
    answers = scene.one.send(reply, taken.session_id, rest, *small)
    assert all(one.start == one.size for one in answers)
    (got,) = scene.grid.replies(ids, 5)
    assert got.content["arrays"]["w"].numpy().shape == (SIZE,)
    assert len(scene.orchestrator._fleet.instructions.partial) == 0


def test_a_small_reply_comes_with_its_head_in_one_call(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    reply = update(head)
    first, contents = scene.one.head(reply)
    parts = [part(id, content) for id, content in contents.items()]
    request = scene.one.sending(reply, "", *parts)
    request = replace(request, head=first)
    for _ in range(2):
        answers = scene.one.call("PushParts", request).parts
        assert all(one.start == one.size for one in answers), "the second time too"
    (got,) = scene.grid.replies(ids, 5)
    assert got.has_content()
    assert "MDW-645" in scene.one.refused("PushParts", request), "it is taken, once"


def test_a_head_speaks_for_the_node_that_signed_the_call(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    scene.two.work()
    reply = update(head)
    first, contents = scene.one.head(reply)
    request = scene.two.sending(reply, "", *(part(id, one) for id, one in contents.items()))
    request = replace(request, head=first)
    assert "MDW-645" in scene.two.refused("PushParts", request)
    assert list(scene.grid.replies(ids, 0)) == []


def test_what_was_sent_whole_in_one_call_has_arrived(scene: Parts) -> None:
    ids, head, tree = asked(scene)
    instruction = scene.orchestrator._fleet.instructions.get(ids[0])
    assert instruction is not None
    whole = [Part(object_id=id) for id in ids_of(tree)]
    scene.one.parts(head, *whole[:-1])
    scene.one.parts(head, *whole, most=1000)
    assert is_in(instruction, State.DELIVERED)
    scene.one.parts(head, *whole)
    assert is_in(instruction, State.ARRIVED)
    assert all(one.size > 0 for one in scene.one.parts(head, *whole)), "the answer may be lost"


def test_an_upload_is_continued_after_the_silo_was_thought_to_have_gone(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    message = scene.orchestrator._fleet.instructions.get(ids[0]).message  # type: ignore[union-attr]
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    small = [part(one, contents[one]) for one in taken.objects_to_push if one != id]
    scene.one.send(reply, taken.session_id, *small, part(id, contents[id], 0, 50_000))
    gone(scene, ids)
    assert "MDW-645" in scene.one.refused("PushMessages", scene.one.head(reply)[0])
    ids = scene.grid.push_messages([copy_of(message)])
    head, _ = scene.one.work()
    again = update(head, SIZE)
    taken, contents = scene.one.begin(again)
    root = again.metadata.message_id
    assert set(taken.objects_to_push) == {id, root}, "only what had not arrived"
    scene.one.send(again, taken.session_id, part(root, contents[root]))
    (here,) = scene.one.send(again, taken.session_id, part(id, contents[id], 50_000))
    assert here.start == here.size, "from the byte where it was broken off"
    (got,) = scene.grid.replies(ids, 5)
    assert got.has_content()
    assert scene.left()[0] == len(ids_of_open(scene)), "nothing stays aside"


def test_another_orchestrator_with_the_same_folder_has_what_had_arrived(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    arrays = model(SIZE, seed=1)
    for process in (1, 2):
        uploads = KeptUploads(tmp_path / "uploads", after=0.0, spare=0)
        with federation.orchestrator(uploads=uploads) as orchestrator:
            one = PartSilo.silo(federation, orchestrator.address, "silo-1")
            one.activate()
            grid = orchestrator.open_run("run", ["silo-1"])
            ids = grid.push_messages(ask(grid, 1, arrays))
            head, _ = one.work()
            reply = update(head, SIZE)
            taken, contents = one.begin(reply)
            id = largest(contents)
            if process == 1:
                small = [part(i, contents[i]) for i in taken.objects_to_push if i != id]
                one.send(reply, taken.session_id, *small, part(id, contents[id], 0, 50_000))
                continue
            root = reply.metadata.message_id
            assert set(taken.objects_to_push) == {id, root}, "only what had not arrived"
            one.send(reply, taken.session_id, part(root, contents[root]))
            (here,) = one.send(reply, taken.session_id, part(id, contents[id], 50_000))
            assert here.start == here.size, "from the byte where it was broken off"
            (got,) = grid.replies(ids, 5)
            assert got.has_content()
            orchestrator.close_run()
            orchestrator.forget_uploads()
    assert list((tmp_path / "uploads").iterdir()) == []


def ids_of_open(scene: Parts) -> set[str]:
    """Return the objects of the instructions that are still open: the second silo's."""
    instructions = scene.orchestrator._fleet.instructions
    return {
        id
        for asked in instructions.of(scene.two.node.node_id)
        for id in instructions.store.ids_of(asked.id)
    }


def test_three_interrupted_downloads_are_no_crash_of_the_silo(scene: Parts) -> None:
    ids, head, tree = asked(scene)
    message = scene.orchestrator._fleet.instructions.get(ids[0]).message  # type: ignore[union-attr]
    for _ in range(MOST + 1):
        scene.one.parts(head, Part(object_id=tree.object_id), most=10)
        gone(scene, ids)
        ids = scene.grid.push_messages([copy_of(message)])
        head, tree = scene.one.work()
    scene.one.confirm(head)
    assert all(scene.one.answer(update(head)))
    (reply,) = scene.grid.replies(ids, 5)
    assert reply.has_content(), reply.error.reason


def test_three_connections_lost_while_it_trains_are_no_crash_of_the_silo(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    message = scene.orchestrator._fleet.instructions.get(ids[0]).message  # type: ignore[union-attr]
    for _ in range(MOST + 1):
        scene.one.confirm(head)
        gone(scene, ids)
        ids = scene.grid.push_messages([copy_of(message)])
        head, _ = scene.one.work()
    assert all(scene.one.answer(update(head)))
    (reply,) = scene.grid.replies(ids, 5)
    assert reply.has_content(), reply.error.reason


def test_a_transfer_that_moves_is_a_sign_of_life(scene: Parts) -> None:
    _, head, tree = asked(scene)
    nodes, node = scene.orchestrator._fleet.nodes, scene.one.node.node_id
    nodes.left(node)
    scene.one.parts(head, Part(object_id=tree.object_id), most=10)
    assert nodes.is_online(node)


def test_a_liar_s_ranges_are_refused_and_take_no_memory(scene: Parts) -> None:
    _, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    session = taken.session_id
    for size, start, content in ((100, 90, b"x" * 20), (10**12, 0, b"x"), (100, -1, b"x")):
        lie = Part(object_id=id, start=start, size=size, content=content)
        assert "MDW-650" in scene.one.refused("PushParts", scene.one.sending(reply, session, lie))
    assert len(scene.orchestrator._fleet.instructions.partial) == 0
    stranger = part("0" * 64, b"nobody asked")
    assert "MDW-644" in scene.one.refused("PushParts", scene.one.sending(reply, session, stranger))
    assert scene.one.send(reply, "another session", part(id, contents[id])) == []


def test_a_digest_that_is_wrong_after_the_last_range_is_refused(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    false = b"x" * len(contents[id])
    scene.one.send(reply, taken.session_id, part(id, false, 0, 50_000))
    last = scene.one.sending(reply, taken.session_id, part(id, false, 50_000))
    assert "MDW-651" in scene.one.refused("PushParts", last)
    assert list(scene.grid.replies(ids, 0)) == []
    others = [part(one, contents[one]) for one in taken.objects_to_push]
    answers = scene.one.send(reply, taken.session_id, *others)
    assert all(one.start == one.size for one in answers), "the true one is taken all the same"


def test_uploads_that_are_begun_and_never_finished_hold_a_bounded_memory(scene: Parts) -> None:
    """Each begins the largest object of another reply, stops before its end, and vanishes."""
    ids, head, _ = asked(scene)
    message = scene.orchestrator._fleet.instructions.get(ids[0]).message  # type: ignore[union-attr]
    instructions = scene.orchestrator._fleet.instructions
    held = []
    for round in range(12):
        reply = update(head, SIZE + round)
        taken, contents = scene.one.begin(reply)
        id = largest(contents)
        small = [part(one, contents[one]) for one in taken.objects_to_push if one != id]
        scene.one.send(reply, taken.session_id, *small, part(id, contents[id], 0, 70_000))
        held.append((len(instructions.partial), len(instructions.store)))
        gone(scene, ids)
        ids = scene.grid.push_messages([copy_of(message)])
        head, _ = scene.one.work()
    assert max(parts for parts, _ in held) <= AT_ONCE * 70_000
    assert max(objects for _, objects in held[2:]) <= held[2][1], "one reply is set aside, not many"
    scene.orchestrator.close_run()
    assert (len(instructions.partial), len(instructions.store)) == (0, 0)


def test_more_than_one_key_may_have_in_flight_is_refused_in_parts_too(scene: Parts) -> None:
    _, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    again = scene.one.sending(reply, taken.session_id, part(id, contents[id], 0, 79_000))
    for _ in range(3):
        scene.one.call("PushParts", again)
    assert "MDW-642" in scene.one.refused("PushParts", again)


def test_a_small_object_does_not_keep_the_call_that_brought_it_in_memory(scene: Parts) -> None:
    _, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    store = scene.orchestrator._fleet.instructions.store
    large = part(id, contents[id])
    scene.one.send(reply, taken.session_id, large)
    assert isinstance(store.get(id), memoryview), "most of a call is not copied"
    small = min(taken.objects_to_push, key=lambda one: len(contents[one]))
    # The large one is here already: its bytes would lie there, counted for nobody.
    scene.one.send(reply, taken.session_id, large, part(small, contents[small]))
    assert type(store.get(small)) is bytes


def test_a_range_that_is_not_what_was_signed_is_refused(scene: Parts) -> None:
    _, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    some = scene.one.sending(reply, taken.session_id, part(id, contents[id], 0, 50_000))
    call = bytearray(some.to_bytes())
    call[-1] ^= 1
    method = f"/{transfer_calls.SERVICE}/PushParts"
    headers = scene.one.signed(method, bytes(call))
    assert "MDW-644" in scene.one.refused("PushParts", bytes(call), headers)
    head_changed = bytearray(some.to_bytes())
    head_changed[20] ^= 1
    headers = scene.one.signed(method, some.to_bytes())
    assert "MDW-745" in scene.one.refused("PushParts", bytes(head_changed), headers)
    assert len(scene.orchestrator._fleet.instructions.partial) == 0


def test_an_answer_may_not_be_many_times_what_was_asked(
    scene: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.orchestrator.instructions.REPLY_BYTES", 1000)
    ids = scene.grid.push_messages(ask(scene.grid, 1, model(100)))
    head, _ = scene.one.work()
    assert head.metadata.message_id in ids
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    lie = part(largest(contents), contents[largest(contents)])
    assert "MDW-642" in scene.one.refused(
        "PushParts", scene.one.sending(reply, taken.session_id, lie)
    )
    assert all(scene.one.answer(update(head, 200))), "another answer is taken"


def test_an_answer_of_one_chunk_many_times_is_as_large_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of zeros is one chunk many times too, and its update is not."""
    monkeypatch.setattr("server.orchestrator.instructions.REPLY_BYTES", 1000)
    monkeypatch.setattr("server.orchestrator.instructions.REPLY_TIMES", 1.1)
    many = 4 * CHUNK_BYTES // 4
    zeros = ArrayRecord({"w": Array(np.zeros(many, np.float32))})
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        one = PartSilo.silo(federation, orchestrator.address, "silo-1")
        one.activate()
        grid = orchestrator.open_run("run", ["silo-1"])
        for model, times, taken in ((zeros, 1, True), (zeros, 2, False)):
            ids = grid.push_messages(ask(grid, 1 + times, model))
            head, _ = one.work()
            reply = update(head, times * many)
            if times == 2:
                reply.content["arrays"]["w"] = Array(np.zeros(times * many, np.float32))
            assert all(one.answer(reply))
            (got,) = grid.replies(ids, 20)
            assert got.has_content() is taken
            assert taken or "MDW-642" in got.error.reason


def test_another_key_can_t_read_continue_or_claim_what_a_vanished_node_has_sent(
    scene: Parts,
) -> None:
    ids, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    small = [part(one, contents[one]) for one in taken.objects_to_push if one != id]
    scene.one.send(reply, taken.session_id, *small, part(id, contents[id], 0, 79_000))
    gone(scene, ids)
    other, _ = scene.two.work()
    for one in contents:
        assert scene.two.parts(other, Part(object_id=one))[0].size == ABSENT
    assert scene.two.send(reply, taken.session_id, part(id, contents[id], 79_000)) == []
    claimed, theirs = scene.two.begin(update(other, SIZE))
    assert set(claimed.objects_to_push) == set(theirs), "it must send all of it"
    rest = part(id, contents[id], 79_000)
    (here,) = scene.two.send(reply, claimed.session_id, rest)
    assert here.start == 0, "it can't complete what it does not have"


def test_a_revoked_key_s_interrupted_upload_is_forgotten(scene: Parts) -> None:
    ids, head, _ = asked(scene)
    reply = update(head, SIZE)
    taken, contents = scene.one.begin(reply)
    id = largest(contents)
    scene.one.send(reply, taken.session_id, part(id, contents[id], 0, 50_000))
    scene.orchestrator.revoke_key(scene.one.pem)
    list(scene.grid.replies(ids, 5))
    assert len(scene.orchestrator._fleet.instructions.partial) == 0


def test_what_a_silo_receives_is_told_with_rate_and_rest(scene: Parts) -> None:
    _, head, tree = asked(scene)
    whole = {id: scene.one.pull(head, id) for id in ids_of(tree)}
    id = largest(whole)
    scene.one.parts(head, Part(object_id=id), most=1000)
    progress = scene.orchestrator._fleet.progress
    began = progress._of[scene.one.node.node_id].began
    scene.one.parts(head, Part(object_id=id, start=1000), most=1000)
    told = progress.told(began + 10.0)[scene.one.node.node_id]
    assert told["direction"] == "down" and told["left"] == len(whole[id]) - 2000
    progress._of[scene.one.node.node_id].began -= 10.0
    assert scene.orchestrator.transfers()["silo-1"]["direction"] == "down"

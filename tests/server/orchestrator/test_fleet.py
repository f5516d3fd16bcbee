"""What an admitted node may see, send and hold: its own, once, and no more than the limits."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from server.orchestrator.deliveries import MOST
from server.orchestrator.fleet import Limits
from server.orchestrator.orchestrator_grid import OrchestratorGrid
from server.orchestrator.service import Orchestrator
from server.round.exchange import NODE_UNAVAILABLE
from strategies.wire.headers import NODE_HEADER
from strategies.wire.objects import deflate
from tests.faults.federation import Federation, ask, model, total
from tests.security.caller import Caller


class Silo(Caller):
    """A node played by the test, call by call."""

    def activate(self) -> None:
        self.call("ActivateNode", ActivateNodeRequest(public_key=self.pem, heartbeat_interval=10))

    def work(self, own: bool = True) -> tuple[Message, ObjectTree]:
        extra = [(NODE_HEADER, "1")] if own else []
        answer = self.call("PullMessages", PullMessagesRequest(node=self.node), extra=extra)
        return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]

    def has_work(self) -> bool:
        """Ask once, as a process of Meadow's does that has just started."""
        self.activate()
        request = PullMessagesRequest(node=self.node)
        return bool(self.call("PullMessages", request, extra=[(NODE_HEADER, "1")]).messages_list)

    def confirm(self, head: Message) -> None:
        m = head.metadata
        request = ConfirmMessageReceivedRequest(
            node=self.node, run_id=m.run_id, message_object_id=m.message_id
        )
        self.call("ConfirmMessageReceived", request)

    def goodbye(self) -> None:
        self.call("DeactivateNode", DeactivateNodeRequest(node_id=self.node.node_id))

    def pull(self, head: Message, id: str) -> bytes:
        request = PullObjectRequest(node=self.node, run_id=head.metadata.run_id, object_id=id)
        return bytes(self.call("PullObject", request).object_content)

    def head(self, reply: Message) -> tuple[PushMessagesRequest, dict[str, bytes]]:
        reply.metadata.__dict__["_message_id"], tree, contents = deflate(reply)
        proto = message_to_proto(Message(RecordDict(), reply_to=reply))
        proto.metadata.CopyFrom(message_to_proto(reply).metadata)
        request = PushMessagesRequest(
            node=self.node, messages_list=[proto], message_object_trees=[tree]
        )
        return request, contents

    def answer(self, reply: Message, only: int | None = None) -> list[bool]:
        request, objects = self.head(reply)
        taken = self.call("PushMessages", request)
        return [
            self.push(reply, taken.session_id, id, objects[id]).stored
            for id in list(taken.objects_to_push)[:only]
        ]

    def push(self, reply: Message, session: str, id: str, content: bytes):  # type: ignore[no-untyped-def]
        request = PushObjectRequest(
            node=self.node,
            run_id=reply.metadata.run_id,
            session_id=session,
            object_id=id,
            object_content=content,
        )
        return self.call("PushObject", request)


class Scene:
    """Two silos by hand; the run names only the first."""

    def __init__(
        self, orchestrator: Orchestrator, one: Silo, two: Silo, grid: OrchestratorGrid
    ) -> None:
        self.orchestrator, self.one, self.two, self.grid = orchestrator, one, two, grid

    def ask(self, size: int = 10) -> list[str]:
        return self.grid.push_messages(ask(self.grid, 1, model(size)))

    def left(self) -> tuple[int, int]:
        instructions = self.orchestrator._fleet.instructions
        return len(instructions.store), len(instructions)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    federation = Federation(tmp_path)
    limits = Limits(objects=40, update_bytes=300_000)
    with federation.orchestrator(limits=limits) as orchestrator:
        one = Silo.silo(federation, orchestrator.address, "silo-1")
        two = Silo.silo(federation, orchestrator.address, "silo-2")
        one.activate()
        two.activate()
        yield Scene(orchestrator, one, two, orchestrator.open_run("run", ["silo-1"]))


def update(head: Message, size: int = 10) -> Message:
    arrays = ArrayRecord()
    arrays["w"] = Array(np.random.default_rng(size).random(size, dtype=np.float32))
    return Message(RecordDict({"arrays": arrays}), reply_to=head)


def test_a_listed_silo_that_the_run_does_not_name_receives_no_byte(scene: Scene) -> None:
    assert [scene.grid.names()[node] for node in scene.grid.get_node_ids()] == ["silo-1"]
    scene.ask()
    head, tree = scene.one.work()
    ids = [node.object_id for node in iterate_object_tree(tree)]
    assert scene.one.pull(head, ids[0])
    run, node = head.metadata.run_id, scene.two.node
    assert "MDW-645" in scene.two.refused("GetRun", GetRunRequest(node=node, run_id=run))
    assert "MDW-645" in scene.two.refused(
        "GetFab", GetFabRequest(node=node, run_id=run, hash_str="x")
    )
    for id in ids:
        assert "MDW-645" in scene.two.refused(
            "PullObject", PullObjectRequest(node=node, run_id=run, object_id=id)
        )
    assert scene.grid.push_messages([Message(RecordDict(), node.node_id, "train")]) == [""]


def test_a_node_of_the_run_can_not_read_delete_or_answer_what_is_another_s(scene: Scene) -> None:
    grid = scene.orchestrator.open_run("run", ["silo-1", "silo-2"])
    messages = [
        m for m in ask(grid, 1, model()) if m.metadata.dst_node_id == scene.one.node.node_id
    ]
    ids = grid.push_messages(messages)
    head, tree = scene.one.work()
    run, two = head.metadata.run_id, scene.two
    stolen = two.call(
        "PullObject", PullObjectRequest(node=two.node, run_id=run, object_id=tree.object_id)
    )
    assert not stolen.object_found and not stolen.object_content
    confirm = ConfirmMessageReceivedRequest(
        node=two.node, run_id=run, message_object_id=head.metadata.message_id
    )
    two.call("ConfirmMessageReceived", confirm)
    assert scene.one.pull(head, tree.object_id)
    forged, _ = two.head(update(head))
    assert "MDW-645" in two.refused("PushMessages", forged)
    assert all(scene.one.answer(update(head)))
    assert len(list(grid.replies(ids, 5))) == 1


def test_a_session_is_of_the_node_that_opened_it(scene: Scene) -> None:
    grid = scene.orchestrator.open_run("run", ["silo-1", "silo-2"])
    grid.push_messages(ask(grid, 1, model()))
    head, _ = scene.one.work()
    reply = update(head)
    request, objects = scene.one.head(reply)
    taken = scene.one.call("PushMessages", request)
    id = taken.objects_to_push[0]
    assert not scene.two.push(reply, taken.session_id, id, objects[id]).stored
    assert scene.one.push(reply, taken.session_id, id, objects[id]).stored


def test_a_reply_counts_once(scene: Scene) -> None:
    ids = scene.ask()
    head, _ = scene.one.work()
    reply = update(head)
    assert all(scene.one.answer(reply))
    assert scene.one.answer(reply) == []  # the same again: nothing is missing
    second, _ = scene.one.head(update(head, size=11))
    assert "MDW-646" in scene.one.refused("PushMessages", second)
    replies = list(scene.grid.replies(ids, 5))
    assert len(replies) == 1 and not replies[0].has_error()
    assert "MDW-645" in scene.one.refused("PushMessages", second)
    assert scene.left() == (0, 0)


def test_a_reply_that_names_another_node_type_or_tree_is_refused(scene: Scene) -> None:
    scene.ask()
    head, _ = scene.one.work()
    for field, value in (
        ("src_node_id", 5),
        ("message_type", "evaluate"),
        ("message_id", "0" * 64),
    ):
        request, _ = scene.one.head(update(head))
        setattr(request.messages_list[0].metadata, field, value)
        assert "MDW-644" in scene.one.refused("PushMessages", request), field
    request, _ = scene.one.head(update(head))
    request.message_object_trees[0].children[0].object_id = "not a hash"
    assert "MDW-644" in scene.one.refused("PushMessages", request)
    assert "MDW-644" in scene.one.refused("PushMessages", PushMessagesRequest(node=scene.one.node))


def test_too_many_objects_and_too_many_bytes_are_refused(scene: Scene) -> None:
    ids = scene.ask()
    head, _ = scene.one.work()
    many = ArrayRecord()
    for i in range(30):
        many[f"w{i}"] = Array(np.full(3, i))
    request, _ = scene.one.head(Message(RecordDict({"arrays": many}), reply_to=head))
    assert "MDW-642" in scene.one.refused("PushMessages", request)
    reply = update(head, size=100_000)
    request, objects = scene.one.head(reply)
    taken = scene.one.call("PushMessages", request)
    with pytest.raises(Exception, match="MDW-642"):
        for id in taken.objects_to_push:
            scene.one.push(reply, taken.session_id, id, objects[id])
    scene.grid.forget(ids)
    assert scene.left() == (0, 0)


def test_a_call_beyond_the_limit_of_one_call_does_not_reach_the_server(scene: Scene) -> None:
    scene.ask()
    head, _ = scene.one.work()
    request = PushObjectRequest(
        node=scene.one.node,
        run_id=head.metadata.run_id,
        object_id="x",
        object_content=bytes(9 * 2**20),
    )
    assert "RESOURCE_EXHAUSTED" in scene.one.refused("PushObject", request)


def test_an_array_that_lies_is_the_silo_s_failure_and_the_grid_goes_on(scene: Scene) -> None:
    ids = scene.ask()
    head, _ = scene.one.work()
    header = b"\x93NUMPY\x01\x00\x40\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000,)}\n"
    arrays = ArrayRecord()
    arrays["w"] = Array("float32", (2_000_000_000,), "numpy.ndarray", header)
    scene.one.answer(Message(RecordDict({"arrays": arrays}), reply_to=head))
    (reply,) = scene.grid.replies(ids, 5)
    assert reply.has_error() and "MDW-641" in reply.error.reason
    assert scene.left() == (0, 0)


def test_what_was_given_to_a_node_that_died_is_given_to_its_successor(scene: Scene) -> None:
    ids = scene.ask()
    first, tree = scene.one.work()
    scene.one.confirm(first)
    assert scene.one.answer(update(first), only=1) == [True]  # dies in the middle of its upload
    scene.one.activate()
    again, _ = scene.one.work()
    assert again.metadata.message_id == first.metadata.message_id
    assert all(scene.one.pull(again, node.object_id) for node in iterate_object_tree(tree))
    assert all(scene.one.answer(update(again, size=12)))
    (reply,) = scene.grid.replies(ids, 5)
    assert reply.content["arrays"]["w"].shape == (12,)
    assert scene.left() == (0, 0)


def test_our_own_node_that_asks_for_work_has_lost_what_it_had(scene: Scene) -> None:
    scene.ask()
    first, _ = scene.one.work()
    again, _ = scene.one.work()  # the answer to the first question never reached it
    assert again.metadata.message_id == first.metadata.message_id


def test_an_instruction_that_ends_each_process_is_given_three_times_and_the_round_goes_on(
    scene: Scene,
) -> None:
    ids = scene.ask()
    for _ in range(MOST):
        assert scene.one.has_work()  # and its process ends
    scene.one.activate()
    (reply,) = scene.grid.replies(ids, 5)
    assert reply.error.reason.startswith("MDW-334: silo-1 ended or lost its connection 3 times")
    assert reply.error.code != NODE_UNAVAILABLE, "one that has gone would be asked again"
    assert scene.left() == (0, 0)
    other = scene.grid.push_messages(ask(scene.grid, 2, model(10)))
    head, _ = scene.one.work()
    assert all(scene.one.answer(update(head)))
    assert [reply.has_error() for reply in scene.grid.replies(other, 5)] == [False]


def test_a_copy_of_it_sent_when_the_silo_had_gone_for_good_counts_as_the_same(scene: Scene) -> None:
    message = ask(scene.grid, 1, model(10))[0]
    for _ in range(MOST):
        ids = scene.grid.push_messages([copy_of(message)])
        assert scene.one.has_work()
        scene.orchestrator._fleet.nodes.left(scene.one.node.node_id)
        (reply,) = scene.grid.replies(ids, 5)
        assert reply.error.code == NODE_UNAVAILABLE
        scene.one.activate()
    (reply,) = scene.grid.replies(scene.grid.push_messages([copy_of(message)]), 5)
    assert reply.error.reason.startswith("MDW-334")
    assert scene.left() == (0, 0)
    scene.grid = scene.orchestrator.open_run("another", ["silo-1"])
    scene.ask()
    assert scene.one.has_work(), "another run begins anew"


def test_what_is_handed_back_or_never_arrived_may_be_given_as_often_as_it_takes(
    scene: Scene,
) -> None:
    scene.ask()
    for _ in range(MOST + 1):  # answers that were lost on their way to a process that lives on
        scene.one.work()
    message = ask(scene.grid, 2, model(11))[0]
    for _ in range(MOST + 1):  # a machine that is taken away again and again
        ids = scene.grid.push_messages([copy_of(message)])
        assert scene.one.has_work()
        scene.one.goodbye()
        assert [reply.error.code for reply in scene.grid.replies(ids, 5)] == [NODE_UNAVAILABLE]
        scene.one.activate()
    scene.grid.push_messages([copy_of(message)])
    assert scene.one.has_work()


def test_the_same_question_may_be_asked_and_answered_as_often_as_one_likes(scene: Scene) -> None:
    message = ask(scene.grid, 1, model(10))[0]
    for _ in range(MOST + 2):
        ids = scene.grid.push_messages([copy_of(message)])
        head, _ = scene.one.work()
        assert all(scene.one.answer(update(head)))
        assert [reply.has_error() for reply in scene.grid.replies(ids, 5)] == [False]


def test_our_own_node_that_takes_it_whole_and_drops_it_is_not_given_it_for_ever(
    scene: Scene,
) -> None:
    ids = scene.ask()
    for _ in range(MOST):
        head, _ = scene.one.work()
        scene.one.confirm(head)
    (got,) = answers(scene.one, scene.grid, ids)
    assert got.error.reason.startswith("MDW-334")


def copy_of(message: Message) -> Message:
    m = message.metadata
    return Message(message.content, m.dst_node_id, m.message_type, group_id=m.group_id)


def answers(silo: Silo, grid: OrchestratorGrid, ids: list[str]) -> list[Message]:
    """Return the replies that are there once the silo has asked for work again."""
    asking = threading.Thread(target=silo.has_work, daemon=True)
    asking.start()
    replies = list(grid.replies(ids, 10))
    grid.push_messages(ask(grid, 9, model(3)))  # so that the question is answered
    asking.join(20)
    return replies


def test_a_waiting_node_is_woken_by_work(scene: Scene) -> None:
    got: list[float] = []

    def wait() -> None:
        scene.one.work()
        got.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    asked = time.monotonic()
    scene.ask()
    thread.join(10)
    assert got and got[0] - asked < 2.0


def test_the_run_that_is_over_takes_its_objects_with_it(scene: Scene) -> None:
    scene.ask()
    head, _ = scene.one.work()
    scene.orchestrator.close_run()
    assert scene.left() == (0, 0)
    late, _ = scene.one.head(update(head))
    assert "MDW-645" in scene.one.refused("PushMessages", late)


@pytest.mark.usefixtures("task_identity")
def test_stock_code_reads_the_grid_like_flowers(scene: Scene) -> None:
    assert [info.name for info in scene.grid.get_nodes()] == ["silo-1"]
    ids = scene.ask()
    assert scene.grid.pull_messages(ids) == []
    head, _ = scene.one.work(own=False)
    arrays = model(10)
    assert all(
        scene.one.answer(
            Message(RecordDict({"arrays": arrays, "c": ConfigRecord()}), reply_to=head)
        )
    )
    assert total(scene.grid.pull_messages(ids)) == 0.0


def test_a_reply_that_names_another_s_objects_as_its_own_takes_nothing_from_it(
    scene: Scene,
) -> None:
    grid = scene.orchestrator.open_run("run", ["silo-1", "silo-2"])
    ids = grid.push_messages(ask(grid, 1, model()))
    liar_head, _ = scene.one.work()
    head, tree = scene.two.work()
    reply = update(liar_head)
    request, _ = scene.one.head(reply)
    # The liar's reply is called what the other's instruction is called, and is made of its objects.
    request.message_object_trees[0].CopyFrom(tree)
    request.messages_list[0].metadata.message_id = tree.object_id
    taken = scene.one.call("PushMessages", request)
    only_the_others = [tree.object_id]
    assert list(taken.objects_to_push) == only_the_others, "the rest it was sent itself"
    assert not scene.one.push(reply, taken.session_id, tree.object_id, b"guessed").stored
    grid.forget([id for id in ids if id == liar_head.metadata.message_id])
    assert all(scene.two.pull(head, node.object_id) for node in iterate_object_tree(tree))
    assert all(scene.two.answer(update(head)))


def test_an_object_that_is_sent_twice_is_taken_once_and_a_false_one_not_at_all(
    scene: Scene,
) -> None:
    ids = scene.ask()
    head, _ = scene.one.work()
    reply = update(head)
    request, objects = scene.one.head(reply)
    taken = scene.one.call("PushMessages", request)
    first, *others = taken.objects_to_push
    assert not scene.one.push(reply, taken.session_id, first, b"something else").stored
    assert not scene.one.push(reply, taken.session_id, "0" * 64, b"nobody asked").stored
    assert not scene.one.push(reply, "another session", first, objects[first]).stored
    held = scene.orchestrator._fleet.instructions
    assert held.uploaded_by(scene.one.node.node_id) == 0, "what is not stored is not counted"
    for _ in range(2):
        assert scene.one.push(reply, taken.session_id, first, objects[first]).stored
    assert held.uploaded_by(scene.one.node.node_id) == len(objects[first])
    assert all(scene.one.push(reply, taken.session_id, id, objects[id]).stored for id in others)
    (got,) = scene.grid.replies(ids, 5)
    assert not got.has_error() and scene.left() == (0, 0)


def below(tree: ObjectTree, content: bytes) -> None:
    """Let a reply's tree name one object more, that with this content."""
    record = next(node for node in iterate_object_tree(tree) if node.children)
    record.children.add().object_id = hashlib.sha256(content).hexdigest()


def all_but_one(tree: ObjectTree) -> None:
    """Take a leaf out of a reply's tree, which the object above it still needs."""
    nodes = list(iterate_object_tree(tree))
    (above,) = [
        node for node in nodes if node.children and not any(one.children for one in node.children)
    ]
    del above.children[0]


# Any admitted node may say how much its reply is; Flower's own say it as these do.
def test_a_reply_that_claims_more_than_it_sends_never_counts_and_stays_bounded(
    scene: Scene,
) -> None:
    ids = scene.ask()
    head, _ = scene.one.work(own=False)
    reply = update(head)
    request, objects = scene.one.head(reply)
    never = b"nobody has it"
    below(request.message_object_trees[0], never)
    taken = scene.one.call("PushMessages", request)
    assert hashlib.sha256(never).hexdigest() in taken.objects_to_push
    assert all(scene.one.push(reply, taken.session_id, id, objects[id]).stored for id in objects)
    assert list(scene.grid.replies(ids, 0.3)) == []
    # Asked again it is told what is missing, and other bytes in its place are not taken.
    again = scene.one.call("PushMessages", request)
    (missing,) = again.objects_to_push
    assert not scene.one.push(reply, again.session_id, missing, b"something else").stored
    assert list(scene.grid.replies(ids, 0.3)) == []
    scene.grid.forget(ids)
    assert scene.left() == (0, 0)


def test_a_reply_that_claims_fewer_objects_than_it_is_made_of_is_that_silo_s_failure(
    scene: Scene,
) -> None:
    ids = scene.ask()
    head, _ = scene.one.work(own=False)
    reply = update(head)
    request, objects = scene.one.head(reply)
    all_but_one(request.message_object_trees[0])
    taken = scene.one.call("PushMessages", request)
    assert len(taken.objects_to_push) == len(objects) - 1
    for id in objects:
        stored = scene.one.push(reply, taken.session_id, id, objects[id]).stored
        assert stored == (id in taken.objects_to_push), "what was not claimed is not taken"
    (got,) = scene.grid.replies(ids, 5)
    assert got.has_error() and "MDW-640" in got.error.reason
    assert scene.left() == (0, 0)


def test_what_a_reply_brings_beside_what_it_is_made_of_is_no_part_of_it(scene: Scene) -> None:
    ids = scene.ask()
    head, _ = scene.one.work(own=False)
    reply = update(head)
    request, objects = scene.one.head(reply)
    more = b"more than the reply is made of"
    below(request.message_object_trees[0], more)
    taken = scene.one.call("PushMessages", request)
    objects[hashlib.sha256(more).hexdigest()] = more
    assert all(scene.one.push(reply, taken.session_id, id, objects[id]).stored for id in objects)
    (got,) = scene.grid.replies(ids, 5)
    assert np.array_equal(got.content["arrays"]["w"].numpy(), reply.content["arrays"]["w"].numpy())
    assert scene.left() == (0, 0)


def test_a_tree_that_names_one_object_again_and_again_is_counted_by_what_it_says(
    scene: Scene,
) -> None:
    ids = scene.ask()
    head, _ = scene.one.work(own=False)
    request, _ = scene.one.head(update(head))
    for _ in range(40):
        below(request.message_object_trees[0], b"the same")
    assert "MDW-642" in scene.one.refused("PushMessages", request)
    scene.grid.forget(ids)
    assert scene.left() == (0, 0)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, -5.0, 0.0])
def test_a_heartbeat_interval_that_would_hide_a_death_is_refused(
    scene: Scene, seconds: float
) -> None:
    beat = SendNodeHeartbeatRequest(node=scene.one.node, heartbeat_interval=seconds)
    assert "MDW-644" in scene.one.refused("SendNodeHeartbeat", beat)
    activate = ActivateNodeRequest(public_key=scene.one.pem, heartbeat_interval=seconds)
    assert "MDW-644" in scene.one.refused("ActivateNode", activate)


def test_the_bundle_of_the_open_run_and_no_other_is_handed_out(scene: Scene) -> None:
    scene.grid = scene.orchestrator.open_run("run", ["silo-1"], bundle=small_bundle())
    run = scene.grid.run
    ask_for = GetFabRequest(node=scene.one.node, run_id=run.run_id, hash_str=run.fab_hash)
    assert scene.one.call("GetFab", ask_for).fab.content == small_bundle()
    ask_for.hash_str = "0" * 64
    assert "MDW-645" in scene.one.refused("GetFab", ask_for)


def small_bundle() -> bytes:
    file = io.BytesIO()
    project = '[project]\nname = "a"\nversion = "1"\n[tool.flwr.app]\npublisher = "p"\n'
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("pyproject.toml"), project)
    return file.getvalue()


def test_a_grid_of_a_closed_run_asks_nobody_and_leaves_nothing(scene: Scene) -> None:
    old = scene.grid
    messages = ask(old, 1, model(10))
    scene.orchestrator.close_run()
    assert old.push_messages(messages) == [""]
    scene.orchestrator.open_run("another", ["silo-1"])
    assert old.push_messages(messages) == [""]
    assert scene.left() == (0, 0)

"""The states of an instruction: each transition that is drawn happens, and no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict

from server.orchestrator.deliveries import MOST
from server.orchestrator.instructions import Instructions, PendingInstruction, State
from strategies.wire.objects import deflate

NODE = 77
pytestmark = pytest.mark.usefixtures("task_identity")


def message(value: float = 1.0, node: int = NODE) -> Message:
    arrays = ArrayRecord()
    arrays["w"] = Array(np.full(10, value, dtype=np.float32))
    return Message(RecordDict({"arrays": arrays}), node, "train")


def is_in(asked: PendingInstruction, state: State) -> bool:
    return asked.state is state


def enqueued(instructions: Instructions, message: Message, silo: str) -> PendingInstruction:
    return instructions.enqueue(instructions.prepare(message, silo))


@dataclass
class Reply:
    """A reply as it travels."""

    metadata: Metadata
    tree: object
    contents: dict[str, bytes]


def reply_to(asked: PendingInstruction, value: float = 2.0) -> Reply:
    reply = Message(message(value).content, reply_to=asked.message)
    id, tree, contents = deflate(reply)
    reply.metadata.__dict__["_message_id"] = id
    return Reply(reply.metadata, tree, contents)


@pytest.fixture
def instructions() -> Instructions:
    return Instructions()


def upload(instructions: Instructions, asked: PendingInstruction, reply: Reply) -> None:
    """Send the whole of a reply."""
    begun = instructions.begin_reply(asked, reply.metadata, reply.tree)
    for id in sorted(begun.missing):
        assert instructions.store.put(id, reply.contents[id])
        instructions.object_came(asked, begun, id)


def test_asked_delivered_arrived_uploading_answered(instructions: Instructions) -> None:
    asked = enqueued(instructions, message(), "a")
    assert is_in(asked, State.ASKED) and len(instructions.store) > 0
    assert instructions.deliver_next(NODE) is asked and is_in(asked, State.DELIVERED)
    assert instructions.deliver_next(NODE) is None, "it is delivered once"
    instructions.confirm(asked)
    assert is_in(asked, State.ARRIVED) and len(instructions.store) == 0
    reply = reply_to(asked)
    begun = instructions.begin_reply(asked, reply.metadata, reply.tree)
    assert is_in(asked, State.UPLOADING) and begun.missing == set(reply.contents)
    upload(instructions, asked, reply)
    assert is_in(asked, State.ANSWERED) and asked.is_over
    assert instructions.store.held_by(asked.reply_holder) == reply.contents
    instructions.close(asked.id)
    instructions.close(asked.id)
    assert len(instructions) == len(instructions.store) == 0


def test_instructions_are_delivered_in_the_order_in_which_they_were_asked(
    instructions: Instructions,
) -> None:
    asked = [enqueued(instructions, message(float(i)), "a") for i in range(3)]
    enqueued(instructions, message(9.0, node=NODE + 1), "b")
    assert [instructions.deliver_next(NODE) for _ in range(4)] == [*asked, None]


def test_the_same_message_twice_is_one_instruction(instructions: Instructions) -> None:
    one = message()
    assert enqueued(instructions, one, "a") is enqueued(instructions, one, "a")
    assert len(instructions) == 1


def test_what_its_node_has_lost_is_asked_again_with_its_objects(instructions: Instructions) -> None:
    asked = enqueued(instructions, message(), "a")
    whole = instructions.store.held_by(asked.id)
    for lose_in in (State.DELIVERED, State.ARRIVED):
        instructions.deliver_next(NODE)
        if lose_in is State.ARRIVED:
            instructions.confirm(asked)
        assert is_in(asked, lose_in)
        instructions.forgive_lost(NODE)
        instructions.deliver_again(NODE)
        assert is_in(asked, State.ASKED)
        assert instructions.store.held_by(asked.id) == whole


def test_what_was_half_uploaded_is_let_go_when_it_is_asked_again(
    instructions: Instructions,
) -> None:
    asked = enqueued(instructions, message(), "a")
    whole = len(instructions.store)
    instructions.deliver_next(NODE)
    reply = reply_to(asked)
    begun = instructions.begin_reply(asked, reply.metadata, reply.tree)
    first = sorted(begun.missing)[0]
    instructions.store.put(first, reply.contents[first])
    instructions.deliver_again(NODE)
    assert asked.upload is None and len(instructions.store) == whole
    instructions.object_came(asked, begun, first)
    assert is_in(asked, State.ASKED), "an object of an upload that is gone changes nothing"


def test_an_upload_that_is_begun_anew_keeps_count_of_the_bytes(instructions: Instructions) -> None:
    asked = enqueued(instructions, message(), "a")
    instructions.deliver_next(NODE)
    first, second = reply_to(asked, 2.0), reply_to(asked, 3.0)
    begun = instructions.begin_reply(asked, first.metadata, first.tree)
    begun.bytes = 500
    again = instructions.begin_reply(asked, second.metadata, second.tree)
    assert again.bytes == instructions.uploaded_by(NODE) == 500
    assert instructions.upload_of(NODE, begun.session) is None
    assert instructions.upload_of(NODE, again.session) is asked
    assert instructions.upload_of(NODE + 1, again.session) is None


def test_a_reply_that_was_on_its_way_when_it_was_asked_again_counts(
    instructions: Instructions,
) -> None:
    asked = enqueued(instructions, message(), "a")
    instructions.deliver_next(NODE)
    instructions.deliver_again(NODE)
    upload(instructions, asked, reply_to(asked))
    assert is_in(asked, State.ANSWERED)
    assert instructions.deliver_next(NODE) is None, "and it is not given again"


def test_given_as_often_as_it_may_be_it_has_failed_and_so_has_a_copy(
    instructions: Instructions,
) -> None:
    asked = enqueued(instructions, message(), "hospital-a")
    for _ in range(MOST):
        assert instructions.deliver_next(NODE) is asked
        instructions.deliver_again(NODE)
    assert is_in(asked, State.FAILED) and asked.is_over
    assert asked.error is not None and "hospital-a" in asked.error.reason
    assert len(instructions.store) == 0, "nobody will read it"
    copied = message()
    assert is_in(enqueued(instructions, copied, "hospital-a"), State.FAILED)
    instructions.close(asked.id)
    assert is_in(enqueued(instructions, message(), "hospital-a"), State.ASKED), "it was answered"


def test_what_is_handed_back_counts_as_never_given(instructions: Instructions) -> None:
    asked = enqueued(instructions, message(), "a")
    for _ in range(MOST + 2):
        assert instructions.deliver_next(NODE) is asked
        instructions.confirm(asked)
        instructions.hand_back(NODE)
        instructions.deliver_again(NODE)
    assert is_in(asked, State.ASKED)


def test_what_is_confirmed_before_it_is_delivered_keeps_its_objects(
    instructions: Instructions,
) -> None:
    asked = enqueued(instructions, message(), "a")
    instructions.confirm(asked)
    assert is_in(asked, State.ASKED) and instructions.store.held_by(asked.id)


def test_a_prepared_instruction_is_heard_of_when_it_is_enqueued_and_leaves_nothing_when_not(
    instructions: Instructions,
) -> None:
    prepared = instructions.prepare(message(), "a")
    assert instructions.store.held_by(prepared.id), "its objects are there before it is"
    assert instructions.deliver_next(NODE) is None
    instructions.discard(prepared)
    assert len(instructions.store) == len(instructions) == 0
    asked = enqueued(instructions, message(), "a")
    instructions.discard(instructions.prepare(asked.message, "a"))
    assert instructions.store.held_by(asked.id), (
        "the same message is pending, and keeps its objects"
    )

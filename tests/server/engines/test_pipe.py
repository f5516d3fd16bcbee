"""Batches through a pipe: bits, what travels once, and that no message shares what another changes."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from server.engines.pipe import LARGE, Call, Job, PipeEnd
from server.engines.server_identity import give_identity_back, take_identity


@pytest.fixture(autouse=True)
def server_of_a_run() -> Iterator[None]:
    before = take_identity(7)
    yield
    give_identity_back(before)


def ends() -> tuple[PipeEnd, PipeEnd]:
    ours, theirs = multiprocessing.Pipe()
    return PipeEnd(ours), PipeEnd(theirs)


def model(size: int, value: float = 1.0) -> ArrayRecord:
    return ArrayRecord({"w": Array(np.full(size, value)), "b": Array(np.arange(3))})


def job(arrays: ArrayRecord, node: int = 1, state: ArrayRecord | None = None) -> Job:
    config = ConfigRecord({"text": "x" * 2000, "list": [1, 2]})
    content = RecordDict({"arrays": arrays, "config": config, "m": MetricRecord({"n": 3})})
    kept = RecordDict({"state": state} if state else {})
    context = Context(run_id=1, node_id=node, node_config={"a": 1}, state=kept, run_config={})
    return Message(content, node, "train"), context


def passed(sender: PipeEnd, receiver: PipeEnd, jobs: list[Job], remember: bool = True) -> list[Job]:
    thread = threading.Thread(target=sender.send, args=(jobs,), kwargs={"remember": remember})
    thread.start()
    received = receiver.receive()
    thread.join()
    return received.jobs


def test_a_batch_arrives_as_it_was_sent() -> None:
    sender, receiver = ends()
    for size in (4, LARGE):
        jobs = [job(model(size), node, model(size, node)) for node in (1, 2, 3)]
        for _ in range(2):
            received = passed(sender, receiver, jobs)
            assert [m.content for m, _ in received] == [m.content for m, _ in jobs]
            assert [m.metadata for m, _ in received] == [m.metadata for m, _ in jobs]
            assert [c.state for _, c in received] == [c.state for _, c in jobs]
            assert [c.node_config for _, c in received] == [{"a": 1}] * 3


def test_the_sender_s_own_messages_are_not_changed() -> None:
    sender, receiver = ends()
    arrays = model(LARGE)
    one = job(arrays, state=arrays)
    passed(sender, receiver, [one])
    assert one[0].content["arrays"] is arrays and one[1].state["state"] is arrays


def test_one_model_for_many_silos_travels_once_and_not_again() -> None:
    sender, receiver = ends()
    sizes: list[int] = []
    inner = sender._connection

    class Counting:
        def send(self, batch: object) -> None:
            sizes.append(0)
            inner.send(batch)

        def send_bytes(self, data: bytes) -> None:
            sizes[-1] += len(data)
            inner.send_bytes(data)

    sender._connection = Counting()  # type: ignore[assignment]  # what it calls is there
    arrays = model(LARGE)
    jobs = [job(arrays, node) for node in range(5)]
    passed(sender, receiver, jobs)
    passed(sender, receiver, jobs)
    passed(sender, receiver, [job(model(LARGE, 2.0))])
    data = len(arrays["w"].data)
    assert sizes == [data, 0, data]


def test_no_message_of_a_batch_shares_what_another_could_change() -> None:
    sender, receiver = ends()
    content = job(model(4))[0].content
    context = job(model(4))[1]
    jobs = [(Message(content, node, "train"), context) for node in (1, 2)]
    (first, first_context), (second, second_context) = passed(sender, receiver, jobs)
    first.content["config"]["list"].append(3)  # type: ignore[union-attr, call-overload, arg-type]
    first.content["config"]["text"] = ""  # type: ignore[call-overload, index]
    first.content["arrays"]["w"].data = b""  # type: ignore[union-attr, call-overload, index]
    first.content["m"]["n"] = 4  # type: ignore[call-overload, index]
    first_context.state["new"] = MetricRecord()
    assert second.content == content
    assert not second_context.state


def test_a_silo_s_state_is_not_kept_until_the_next_batch() -> None:
    sender, receiver = ends()
    passed(sender, receiver, [job(model(LARGE), state=model(LARGE, 3.0))])
    assert len(sender._sent) == len(receiver._received) == 2  # the model's two arrays


def test_the_names_of_silos_to_let_go_come_along() -> None:
    sender, receiver = ends()
    sender.send([], goodbye=["north"])
    assert receiver.receive().goodbye == ["north"]


def test_a_call_brings_its_model_which_travels_no_second_time_with_messages() -> None:
    sender, receiver = ends()
    arrays = model(4)
    sender.send([], call=Call("module:function", arrays, 5), remember=True)
    call = receiver.receive().call
    assert call == Call("module:function", arrays, 5)
    sender.send([job(arrays)], remember=True)
    assert receiver._connection.poll()
    assert len(receiver._received) == 2
    assert receiver.receive().jobs[0][0].content["arrays"] == arrays

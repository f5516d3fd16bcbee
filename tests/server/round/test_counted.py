"""A silo is told which of its updates counted last, at no cost where all are told the same."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from server.round.counted import say_what_counted
from strategies.wire import protocol

pytestmark = pytest.mark.usefixtures("task_identity")
SILOS = {1: "east", 2: "north", 3: "south"}


def messages(content: RecordDict) -> list[Message]:
    return [Message(content, node, "train") for node in SILOS]


def told(message: Message) -> object:
    config = message.content[protocol.CONFIG]
    assert isinstance(config, ConfigRecord)
    return config[protocol.COUNTED]


def test_each_message_says_the_round_of_its_own_silo() -> None:
    arrays = ArrayRecord()
    config = ConfigRecord({protocol.ROUND: 5})
    sent = messages(RecordDict({protocol.ARRAYS: arrays, protocol.CONFIG: config}))
    say_what_counted(sent, SILOS, {"east": 4, "south": 2})
    assert [told(message) for message in sent] == [4, 0, 2]
    assert all(message.content[protocol.ARRAYS] is arrays for message in sent)
    assert protocol.COUNTED not in config


def test_silos_that_are_told_the_same_share_one_content() -> None:
    sent = messages(RecordDict({protocol.CONFIG: ConfigRecord()}))
    say_what_counted(sent, SILOS, {"east": 4, "south": 4})
    assert sent[0].content is sent[2].content
    assert sent[0].content is not sent[1].content


def test_a_reminder_goes_to_the_silo_that_gave_it_and_to_no_other() -> None:
    config = ConfigRecord({protocol.ROUND: 5})
    sent = messages(RecordDict({protocol.ARRAYS: ArrayRecord(), protocol.CONFIG: config}))
    say_what_counted(sent, SILOS, {}, {"east": "", "north": "a:b", "south": ""}.__getitem__)
    found = [message.content.config_records[protocol.CONFIG] for message in sent]
    assert [protocol.REMINDER in one for one in found] == [False, True, False]
    assert found[1][protocol.REMINDER] == "a:b"
    assert sent[0].content is sent[2].content


def test_messages_of_different_contents_keep_them() -> None:
    sent = [
        Message(
            RecordDict({"m": MetricRecord({"n": node}), protocol.CONFIG: ConfigRecord()}),
            node,
            "train",
        )
        for node in SILOS
    ]
    say_what_counted(sent, SILOS, {})
    assert [message.content.metric_records["m"]["n"] for message in sent] == [1, 2, 3]


def test_a_message_without_such_a_record_stays_as_it_is() -> None:
    content = RecordDict({"own": ConfigRecord()})
    sent = messages(content)
    say_what_counted(sent, SILOS, {"east": 4})
    assert all(message.content is content for message in sent)

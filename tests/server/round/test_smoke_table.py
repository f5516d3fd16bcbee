"""`task=smoke`: a table of what works at each silo, and a liar or a refusal is one cell of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from conf.compose import compose
from server.round.smoke_table import LOAD, SIZES, clock_in_words, in_bytes, table, try_silos
from server.simulation import simulate
from strategies.wire import protocol
from strategies.wire.objects import array_of
from tests.unused_grid import UnusedGrid

pytestmark = pytest.mark.usefixtures("task_identity")

NAMES = {1: "north", 2: "south", 3: "west", 4: "east"}
FACTS: dict[str, Any] = {
    "device": "cpu",
    "cores": 2,
    "memory": 2**33,
    "clock": 1e9,
    "data": "there",
}


class Echoing(UnusedGrid):
    """North answers well, south refuses what is large, west brings back another thing, east lies in
    what it says of itself.
    """

    def __init__(self) -> None:
        self._waiting: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            self._waiting.append(self._answer(message))
            ids.append(f"m{number}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        replies, self._waiting = self._waiting, []
        return iter(replies)

    def _answer(self, message: Message) -> Message:
        silo = NAMES[message.metadata.dst_node_id]
        values = message.content.array_records[protocol.ARRAYS][LOAD].numpy()
        if silo == "south" and values.size > 10:
            reason = "SiloError: MDW-351: the owner of south does not allow it."
            return Message(Error(1, reason), reply_to=message)
        back = values if silo == "west" else values[::-1].copy()
        facts: dict[str, Any] = dict(FACTS)
        if silo == "east":
            facts |= {"device": "cpu\x1b[2J", "cores": -1, "memory": "much", "clock": float("nan")}
        record = ArrayRecord({LOAD: array_of(np.ascontiguousarray(back))})
        content = RecordDict({protocol.ARRAYS: record, protocol.FACTS: ConfigRecord(facts)})
        return Message(content, reply_to=message)


def test_each_silo_has_seconds_or_a_code_and_what_it_says_of_itself() -> None:
    sizes = (0, 1000)
    tried = try_silos(compose(["task=smoke"]), Echoing(), NAMES, ConfigRecord(), sizes)

    east, north, south, west = tried
    assert list(north.seconds) == [0, 1000] and north.failed == {}
    assert north.facts["memory"] == "8 GiB" and north.facts["clock"].endswith(" s")
    assert list(south.seconds) == [0] and south.failed == {1000: "MDW-351"}
    assert west.failed == {1000: "MDW-613"}
    # What is no plain word or number is not shown.
    assert east.facts == {"data": "there"}
    lines = table(tried)
    assert [line.split()[0] for line in lines] == ["silo", "east", "north", "south", "west"]
    assert "MDW-351" in lines[3] and "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("ahead", "words"), [(0.5, "right"), (2.0, "right"), (-90.0, "-90 s"), (70.0, "+68 s")]
)
def test_a_clock_is_off_by_what_the_way_does_not_explain(ahead: float, words: str) -> None:
    assert clock_in_words(ahead, 2.0) == words


def test_sizes_go_from_nothing_to_64_mib() -> None:
    assert [in_bytes(size) for size in SIZES] == ["0 B", "1 KiB", "1 MiB", "8 MiB", "64 MiB"]


def test_a_simulation_tries_its_silos_and_keeps_the_table(tmp_path: Path) -> None:
    said = ["task=smoke", "run.rounds=1", "simulation.workers=0", "tracking=off"]
    run = simulate([*said, f"run.output={tmp_path}"])

    assert run.result.status == "finished"
    tried = json.loads((run.folder / "smoke.json").read_text())
    assert [one["silo"] for one in tried] == run.result.silos
    for one in tried:
        assert sorted(map(int, one["seconds"])) == list(SIZES) and one["failed"] == {}
        assert one["facts"]["data"] == "not set"

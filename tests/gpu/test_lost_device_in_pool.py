"""A worker whose device is lost to it answers, ends, and costs nobody else a round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from client.device_failures import LOST_STATUS, DeviceLost
from conf.schema import Silo
from server.engines.pipe import Call
from server.engines.pool import PoolGrid

HERE = Path(__file__).parent
APP = "poisoned_app:app"
SILOS = [Silo(f"silo-{i}", i, 4) for i in range(4)]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "workers.log"


@pytest.fixture
def grid(log: Path) -> Iterator[PoolGrid]:
    # One worker: what waits behind the poisoned message is what must not be lost.
    with PoolGrid(SILOS, 1, app=APP, malloc=False, log=log) as grid:
        yield grid


def ask(grid: PoolGrid, poison: str) -> dict[str, Message]:
    content = RecordDict({"config": ConfigRecord({"poison": poison})})
    asked = [Message(content, node, "train") for node in grid.get_node_ids()]
    names = grid.names()
    found = grid.replies(grid.push_messages(asked), 60)
    return {names[reply.metadata.src_node_id]: reply for reply in found}


def process(reply: Message) -> object:
    return reply.content.config_records["told"]["process"]


def test_the_silo_hears_why_and_all_others_are_answered_by_the_next_process(
    grid: PoolGrid, log: Path
) -> None:
    before = {process(reply) for reply in ask(grid, "").values()}
    round_2 = ask(grid, "silo-1")
    lost = round_2.pop("silo-1")
    assert "DeviceLost: MDW-226" in lost.error.reason
    assert not any(reply.has_error() for reply in round_2.values()) and len(round_2) == 3
    round_3 = ask(grid, "")
    assert not any(reply.has_error() for reply in round_3.values())
    (after,) = {process(reply) for reply in round_3.values()}
    assert {after}.isdisjoint(before), "the process that lost its device is not asked again"
    assert f"with status {LOST_STATUS}" in log.read_text()


def test_a_silo_that_loses_it_each_time_costs_its_own_answers_alone(grid: PoolGrid) -> None:
    for _ in range(4):
        replies = ask(grid, "silo-2")
        failed = [name for name, reply in replies.items() if reply.has_error()]
        assert failed == ["silo-2"] and "MDW-226" in replies["silo-2"].error.reason


def test_a_score_that_loses_it_is_an_error_and_the_worker_another(grid: PoolGrid) -> None:
    for _ in range(2):
        with pytest.raises(DeviceLost, match="MDW-226"):
            grid.call(Call("poisoned_app:called", ArrayRecord(), None)).result(60)
    assert not any(reply.has_error() for reply in ask(grid, "").values())


def test_without_workers_the_run_ends_since_there_is_no_other_process() -> None:
    with PoolGrid(SILOS, 0, app=APP, malloc=False) as grid, pytest.raises(DeviceLost):
        ask(grid, "silo-0")
        ask(grid, "")

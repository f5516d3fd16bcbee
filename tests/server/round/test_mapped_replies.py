"""Large rounds of a strategy that wants a list: its arrays lie in files, and are what they were."""

from __future__ import annotations

import os
import tracemalloc
from collections import namedtuple
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from server.round import mapped_replies
from server.round.mapped_replies import MappedReplies
from strategies.external import External
from strategies.wire.objects import Pieces
from tests.strategies.conftest import FakeGrid

pytestmark = pytest.mark.usefixtures("task_identity")
Usage = namedtuple("Usage", "total used free")
MODEL = ArrayRecord(
    {
        "w": Array(np.zeros((7, 3), np.float32)),
        "d": Array(np.zeros(5, np.float64)),
        "n": Array(np.asarray(0, np.int64)),
        "empty": Array(np.zeros((0, 3), np.float32)),
    }
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a round is, it is put into files."""
    monkeypatch.setattr(mapped_replies, "HELD_IN_MEMORY", -1)


def replies(strategy: Any) -> list[Message]:
    grid = FakeGrid(7)
    messages = list(strategy.configure_train(1, MODEL, ConfigRecord(), grid))
    # Flower draws them in any order, and the round loop sorts them.
    messages.sort(key=lambda message: message.metadata.dst_node_id)
    return [grid.reply(message) for message in messages]


def bits(arrays: ArrayRecord) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {n: (a.dtype, tuple(a.shape), a.numpy().tobytes()) for n, a in arrays.items()}


@pytest.mark.usefixtures("always")
def test_arrays_are_what_they_were_and_no_file_has_a_name(tmp_path: Path) -> None:
    files = MappedReplies(tmp_path / "updates", 7, 1)
    for reply in replies(External(flower.FedAvg())):
        before = bits(reply.content["arrays"])
        held = files.held(reply)
        assert bits(held.content["arrays"]) == before
        assert all(isinstance(a, Pieces) for a in held.content["arrays"].values())
    assert list((tmp_path / "updates").iterdir()) == []


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "name", ["FedAvg", "FedMedian", "FedTrimmedAvg", "Krum", "Bulyan", "FedAdam"]
)
def test_flower_s_strategies_make_the_same_of_them(name: str, tmp_path: Path) -> None:
    def made(files: MappedReplies | None) -> ArrayRecord:
        strategy = External(getattr(flower, name)())
        given = replies(strategy)
        if files is not None:
            given = [files.held(reply) for reply in given]
        arrays, _ = strategy.aggregate_train(1, given)
        assert arrays is not None
        return arrays

    assert bits(made(MappedReplies(tmp_path / "updates", 7, 1))) == bits(made(None))


@pytest.mark.usefixtures("always")
def test_a_hosted_strategy_makes_no_copy_of_them(tmp_path: Path) -> None:
    """FedAvg adds one after another: the sum, and one product beside it."""
    size = 300_000
    grid = FakeGrid(10)
    strategy = External(flower.FedAvg())
    model = ArrayRecord({"w": Array(np.zeros(size, np.float32))})
    messages = list(strategy.configure_train(1, model, ConfigRecord(), grid))
    files = MappedReplies(tmp_path / "updates", 10, 4 * size)
    given = [files.held(grid.reply(message)) for message in messages]
    tracemalloc.start()
    try:
        strategy.aggregate_train(1, given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 4 * size


@pytest.mark.usefixtures("always")
def test_the_space_is_free_when_the_update_is_dropped(tmp_path: Path) -> None:
    files = MappedReplies(tmp_path / "updates", 7, 1)
    held = files.held(replies(External(flower.FedAvg()))[0])

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/updates/")

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("no list of what is mapped here")
    assert mapped() == 1
    del held
    assert mapped() == 0


def test_a_small_round_stays_in_memory(tmp_path: Path) -> None:
    files = MappedReplies(tmp_path / "updates", 7, 1000)
    reply = replies(External(flower.FedAvg()))[0]
    first = reply.content["arrays"]["w"]
    assert files.held(reply).content["arrays"]["w"] is first
    assert not (tmp_path / "updates").exists()


@pytest.mark.usefixtures("always")
def test_without_room_updates_stay_in_memory_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10, 0, 10))
    files = MappedReplies(tmp_path / "updates", 7, 1000)
    reply = replies(External(flower.FedAvg()))[0]
    first = reply.content["arrays"]["w"]
    assert files.held(reply).content["arrays"]["w"] is first
    assert "held in memory: MDW-513" in caplog.text


@pytest.mark.usefixtures("always")
def test_a_disk_that_fails_on_the_way_costs_no_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = MappedReplies(tmp_path / "updates", 7, 1)
    (tmp_path / "updates").rmdir()
    given = replies(External(flower.FedAvg()))
    before = [bits(reply.content["arrays"]) for reply in given]
    assert [bits(files.held(reply).content["arrays"]) for reply in given] == before
    assert "held in memory: MDW-532" in caplog.text

"""A silo whose round has closed stops working on it, and of two processes with one key one is given the work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.node import connection
from server.orchestrator.packed_grid import PackedGrid
from server.round.exchange import Closing, exchange
from tests.faults.federation import Federation, ask, lines, model, until

BOTH = ["silo-1", "silo-2"]


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(connection, "BEAT_SECONDS", 0.1)
    yield


def test_a_late_silo_is_told_that_its_round_has_closed_and_works_on_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
        federation.thread_node(orchestrator.address, federation.silos[1]),
    ):
        orchestrator.wait_for(BOTH, 2, 20)
        grid = PackedGrid(orchestrator.open_run("run", BOTH))
        slow = {"sleep": 300.0, "sleep-silo": "silo-2"}
        closing = Closing(timeout=60.0, quorum=1, grace=1.0)
        answers = list(exchange(grid, ask(grid, 1, model(), **slow), closing))
        assert [answer.reply.has_error() for answer in answers] == [False, True]
        replies = grid.send_and_receive(ask(grid, 2, model()), timeout=30)
        assert [reply.has_error() for reply in replies] == [False, False], "not after 300 s"
        assert "its round has closed, so it was not worked on any longer" in caplog.text


def test_a_silo_that_was_lost_goes_on_with_what_it_will_be_asked_again(tmp_path: Path) -> None:
    federation, trained = Federation(tmp_path, silos=1), tmp_path / "trained.jsonl"
    state = tmp_path / "state"
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0], state),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        node = grid.get_node_ids()[0]
        told = {"sleep": 2.0, "trained-file": str(trained)}
        closing = Closing(timeout=60.0, quorum=1, patience=30.0)
        messages = ask(grid, 1, model(), **told)
        answering = exchange(grid, messages, closing)
        gone = orchestrator._fleet.nodes

        def lose() -> None:
            until(lambda: lines(trained))
            gone.left(node)

        losing = threading.Thread(target=lose)
        losing.start()
        [answer] = answering
        losing.join(10)
        assert not answer.reply.has_error()
        assert len(lines(trained)) == 1, "what it had begun counted"


def test_of_two_processes_with_one_key_one_is_given_the_work_and_both_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation, trained = Federation(tmp_path, silos=1), tmp_path / "trained.jsonl"
    told = {"trained-file": str(trained)}
    with (
        caplog.at_level(logging.INFO),
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        with federation.thread_node(orchestrator.address, federation.silos[0]) as second:
            until(lambda: second.connection._beating is not None)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            for round in (1, 2, 3, 4):
                [reply] = grid.send_and_receive(ask(grid, round, model(), **told), timeout=30)
                assert not reply.has_error()
            assert [one["round"] for one in lines(trained)] == [1, 2, 3, 4], "each of them once"
            until(lambda: orchestrator.twins() == ["silo-1"])
        until(grid.get_node_ids)
        [reply] = grid.send_and_receive(ask(grid, 5, model(), **told), timeout=40)
        assert not reply.has_error(), "the first one is given the work again"
    assert "MDW-362: two processes use the key of silo-1" in caplog.text
    assert caplog.text.count("MDW-362") == 1

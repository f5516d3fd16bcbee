"""Nodes: their ids come from their keys, and each is there as long as its heartbeats last."""

from __future__ import annotations

import pytest

from conf.running_clock import RunningClock
from server.orchestrator.nodes import NodeTable, is_interval, node_id_of


class Clock:
    """The system's time, set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_key_has_the_same_id_in_every_orchestrator_and_another_key_another() -> None:
    first, second = NodeTable(), NodeTable()
    assert first.admit(b"key", "a") == second.admit(b"key", "a") == node_id_of(b"key")
    assert first.admit(b"other key", "b") != node_id_of(b"key")
    assert 1 < node_id_of(b"key") < 2**63


def test_a_node_is_there_for_two_intervals_after_each_sign_of_life(clock: Clock) -> None:
    table = NodeTable(RunningClock(clock))
    node = table.admit(b"key", "a")
    assert not table.is_online(node), "admitted is not there"
    assert table.heard_from(node, 10.0, own=True)
    clock.now += 19.9
    assert table.is_online(node)
    assert table.heard_from(node), "any call is a sign of life, at the interval that it last said"
    clock.now += 19.9
    assert table.is_online(node) and table.is_own(node)
    clock.now += 0.2
    assert not table.is_online(node)


def test_a_node_that_signs_off_is_gone_at_once_and_may_come_back(clock: Clock) -> None:
    table = NodeTable(RunningClock(clock))
    node = table.admit(b"key", "a")
    table.heard_from(node, 10.0)
    table.left(node)
    assert not table.is_online(node)
    table.heard_from(node)
    assert table.is_online(node)


def test_after_a_pause_of_this_process_who_was_there_has_its_whole_patience_again(
    clock: Clock,
) -> None:
    running = RunningClock(clock)
    table = NodeTable(running)
    there, gone, left = (table.admit(key, "a") for key in (b"there", b"gone", b"left"))
    with running.watched():
        table.heard_from(gone, 10.0)
        for _ in range(6):
            clock.now += 4.0
            table.is_online(gone)
        table.heard_from(there, 10.0)
        table.heard_from(left, 10.0)
        table.left(left)
        for _ in range(4):
            clock.now += 4.0
            table.is_online(there)
        clock.now += 62.0
        assert [table.is_online(node) for node in (there, gone, left)] == [True, False, False]
        for _ in range(4):
            clock.now += 4.9
            assert table.is_online(there), "its patience begins when this process runs again"
        clock.now += 0.5
        assert not table.is_online(there)


def test_a_node_whose_key_is_not_admitted_is_never_there() -> None:
    table = NodeTable()
    node = table.admit(b"key", "a")
    table.heard_from(node, 10.0)
    table.expel(b"key")
    table.expel(b"key")
    assert not table.is_online(node) and table.get(node) is None and len(table) == 0
    assert not table.heard_from(node), "a call that was on its way brings nobody back"
    table.left(node)
    table.admit(b"key", "a")
    assert not table.is_online(node)


def test_admitting_a_key_again_changes_nothing() -> None:
    table = NodeTable()
    node = table.admit(b"key", "a")
    table.heard_from(node, 10.0)
    assert table.admit(b"key", "a") == node and table.is_online(node)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 0.0, 9.9, 1801.0])
def test_an_interval_that_would_keep_a_dead_node_alive_is_not_taken(seconds: float) -> None:
    assert not is_interval(seconds)
    assert is_interval(10.0) and is_interval(1800.0)

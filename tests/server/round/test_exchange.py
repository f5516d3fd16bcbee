"""A round closes when DESIGN says: all answered, quorum at the timeout, grace, patience; late replies are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from flwr.app import Error, Message, RecordDict

from server.round.exchange import NODE_UNAVAILABLE, Closing, Exchange
from server.round.grid import SiloGrid


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ScriptedGrid(SiloGrid):
    """Answers each node's n-th message after so many seconds of the clock: `script[node] = [(seconds, error), ...]`."""

    def __init__(self, clock: Clock, script: dict[int, list[tuple[float, int | None]]]) -> None:
        self.clock, self.script = clock, script
        self.due: dict[str, tuple[float, Message]] = {}
        self.forgotten: set[str] = set()
        self.online_at: dict[int, float] = {}
        self.sent = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            self.sent += 1
            message.metadata.__dict__["_message_id"] = id = f"m{self.sent}"
            seconds, error = self.script[message.metadata.dst_node_id].pop(0)
            content = RecordDict() if error is None else Error(error, "scripted")
            self.due[id] = (self.clock.now + seconds, Message(content, reply_to=message))  # type: ignore[call-overload]
            ids.append(id)
        return ids

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        end = self.clock.now + (timeout or 0)
        ready = sorted(
            (self.due[i][0], i) for i in message_ids if i in self.due and self.due[i][0] <= end
        )
        if not ready:
            self.clock.now = end
            return
        self.clock.now = max(self.clock.now, ready[0][0])
        yield self.due.pop(ready[0][1])[1]

    def forget(self, message_ids: Iterable[str]) -> None:
        self.forgotten |= set(message_ids)

    def get_node_ids(self) -> list[int]:
        return [node for node in self.script if self.clock.now >= self.online_at.get(node, 0)]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError

    def names(self) -> dict[int, str]:
        raise NotImplementedError

    @property
    def run(self) -> object:  # type: ignore[override]
        raise NotImplementedError

    def get_nodes(self) -> list[object]:  # type: ignore[override]
        raise NotImplementedError


@pytest.fixture
def clock() -> Clock:
    return Clock()


def exchanged(grid: ScriptedGrid, closing: Closing) -> tuple[list[tuple[int, bool]], Exchange]:
    """Run an exchange in which every error-free reply is admitted; return (node, failed) in order of arrival."""
    exchange = Exchange(grid, closing, clock=grid.clock)
    got = []
    for node, reply in exchange.run([Message(RecordDict(), node, "train") for node in grid.script]):
        got.append((node, reply.has_error()))
        exchange.admitted += not reply.has_error()
    return got, exchange


pytestmark = pytest.mark.usefixtures("task_identity")


def test_closes_as_soon_as_all_have_answered_or_failed(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(3, None)], 2: [(1, None)], 3: [(2, 2)]})
    got, exchange = exchanged(grid, Closing(timeout=100, quorum=2))
    assert got == [(2, False), (3, True), (1, False)]
    assert clock.now == 3
    assert not exchange.late


def test_closes_at_the_timeout_with_a_quorum_and_forgets_the_late(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(50, None)]})
    got, exchange = exchanged(grid, Closing(timeout=10, quorum=2, patience=100))
    assert [node for node, _ in got] == [1, 2]
    assert clock.now == pytest.approx(10)
    assert len(exchange.late) == 1
    assert grid.forgotten == exchange.late


def test_grace_closes_earlier_than_the_timeout(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(50, None)]})
    got, _ = exchanged(grid, Closing(timeout=100, quorum=2, grace=3))
    assert [node for node, _ in got] == [1, 2]
    assert clock.now == pytest.approx(5)


def test_without_a_quorum_it_waits_beyond_the_timeout_for_the_patience(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(15, None)], 3: [(500, None)]})
    got, _ = exchanged(grid, Closing(timeout=10, quorum=2, patience=20))
    assert [node for node, _ in got] == [1, 2]
    assert clock.now == pytest.approx(15)


def test_patience_runs_out(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(500, None)]})
    got, exchange = exchanged(grid, Closing(timeout=10, quorum=2, patience=20))
    assert [node for node, _ in got] == [1]
    assert clock.now == pytest.approx(30)
    assert len(exchange.late) == 1


def test_a_silo_that_comes_back_is_asked_again_while_the_round_is_open(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(20, None)], 2: [(1, NODE_UNAVAILABLE), (2, None)]})
    grid.online_at[2] = 5
    got, _ = exchanged(grid, Closing(timeout=100, quorum=1))
    assert got == [(2, False), (1, False)]
    assert grid.sent == 3


def test_a_lost_silo_is_given_up_when_the_others_make_the_quorum(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(4, None)], 2: [(1, NODE_UNAVAILABLE)]})
    grid.online_at[2] = 1000
    got, _ = exchanged(grid, Closing(timeout=100, quorum=1, patience=50))
    assert got == [(1, False), (2, True)]
    assert clock.now == pytest.approx(4)


def test_all_raised_does_not_wait_for_anybody(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, 2)], 2: [(2, 2)]})
    got, _ = exchanged(grid, Closing(timeout=100, quorum=1, patience=50))
    assert got == [(1, True), (2, True)]
    assert clock.now == 2

"""When an exchange closes: all answered, timeout with a quorum, grace, patience.

What then becomes of the late.
"""

from __future__ import annotations

import gc
import weakref

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from server.round.exchange import (
    NO_REPLY,
    NODE_UNAVAILABLE,
    POLL_SECONDS,
    TICK_SECONDS,
    Closing,
    Exchange,
    Judge,
    exchange,
    without_error,
)
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.silo_grid import NEVER_ASKED
from tests.server.round.scripted_grid import FAILS, Clock, PolledGrid, ScriptedGrid, outcome

pytestmark = pytest.mark.usefixtures("task_identity")

RAISED = 2
"""Flower's error code for an app that raised."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def exchanged(
    grid: ScriptedGrid | PolledGrid, closing: Closing, judge: Judge = without_error
) -> list[tuple[int, int | None]]:
    """Run an exchange with all nodes of the script.

    Return (node, error code) in the order of the answers.
    """
    messages = [Message(RecordDict(), node, "train") for node in grid.silos.script]
    clock = grid.clock
    return [
        outcome(answer)
        for answer in exchange(grid, messages, closing, judge, clock=clock, sleep=clock.sleep)
    ]


def test_it_closes_as_soon_as_all_have_answered_or_failed(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(3, None)], 2: [(1, None)], 3: [(2, RAISED)]})
    got = exchanged(grid, Closing(timeout=100, quorum=2))
    assert got == [(2, None), (3, RAISED), (1, None)]
    assert clock.now == 3
    assert not grid.forgotten


def test_it_closes_at_the_timeout_with_a_quorum_and_names_and_forgets_the_late(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(50, None)]})
    got = exchanged(grid, Closing(timeout=10, quorum=2, patience=100))
    assert got == [(1, None), (2, None), (3, NO_REPLY)]
    assert clock.now == pytest.approx(10)
    assert grid.forgotten == {"m3"}
    assert "quorum not reached" not in caplog.text


def test_the_error_codes_are_flower_s_own() -> None:
    assert NO_REPLY == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert NODE_UNAVAILABLE == ErrorCode.NODE_UNAVAILABLE


def test_what_never_came_says_why(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, NODE_UNAVAILABLE)], 2: [(50, None)]})
    grid.silos.online_at[1] = 1000
    messages = [Message(RecordDict(), node, "train") for node in (1, 2)]
    answers = exchange(grid, messages, Closing(timeout=10), clock=clock, sleep=clock.sleep)
    assert [answer.verdict for answer in answers] == [
        Rejected("MDW-361", "the silo has gone and did not come back"),
        Rejected("MDW-359", "no reply before the round closed"),
    ]


def test_a_node_that_is_lost_again_whenever_it_is_asked_is_not_asked_without_end(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(0, NODE_UNAVAILABLE)] * 100})
    got = exchanged(grid, Closing(timeout=10, quorum=1, patience=10))
    assert got == [(1, NODE_UNAVAILABLE)]
    assert clock.now == pytest.approx(10)
    assert len(grid.silos.sent) <= 1 + 10 / TICK_SECONDS


@pytest.mark.parametrize(
    ("progress", "verdict"),
    [
        (
            "it was working on it",
            Rejected("MDW-359", "no reply before the round closed (it was working on it)"),
        ),
        (
            NEVER_ASKED,
            Rejected(
                "MDW-360", "connected, but it never asked for its work before the round closed"
            ),
        ),
    ],
)
def test_how_far_a_late_silo_was_is_said(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, progress: str, verdict: Rejected
) -> None:
    grid = ScriptedGrid(clock, {1: [(50, None)]})
    monkeypatch.setattr(grid, "progress", lambda id: progress)
    message = Message(RecordDict(), 1, "train")
    [answer] = exchange(grid, [message], Closing(timeout=10), clock=clock, sleep=clock.sleep)
    assert answer.verdict == verdict


def test_without_a_quorum_asked_for_it_closes_at_the_timeout_whatever_came(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(50, None)], 2: [(3, None)]})
    # A grace has no meaning without a quorum: 0 replies must not count as one that is reached.
    got = exchanged(grid, Closing(timeout=10, grace=0.0, patience=100))
    assert got == [(2, None), (1, NO_REPLY)]
    assert clock.now == pytest.approx(10)


def test_grace_closes_earlier_than_the_timeout(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(50, None)]})
    got = exchanged(grid, Closing(timeout=100, quorum=2, grace=3))
    assert got == [(1, None), (2, None), (3, NO_REPLY)]
    assert 5 <= clock.now <= 5 + TICK_SECONDS, "the quorum was there after 2 s"


def test_a_grace_longer_than_what_is_left_does_not_outlast_the_timeout(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(8, None)], 2: [(9, None)], 3: [(12, None)]})
    got = exchanged(grid, Closing(timeout=10, quorum=2, grace=30))
    assert got == [(1, None), (2, None), (3, NO_REPLY)]
    assert clock.now == pytest.approx(10)


def test_a_quorum_of_one_starts_the_grace(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(50, None)]})
    assert exchanged(grid, Closing(timeout=100, quorum=1, grace=0)) == [(1, None), (2, NO_REPLY)]
    assert clock.now < 2


def test_what_the_judge_rejects_is_no_part_of_the_quorum(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(9, None)]})

    def rejects_the_first(node: int, reply: Message) -> Verdict:
        return Rejected("MDW-614", "not finite") if node == 1 else Admitted(1)

    got = exchanged(grid, Closing(timeout=100, quorum=2, grace=0), rejects_the_first)
    assert got == [(1, None), (2, None), (3, None)], "two replies, one of them admitted"


def test_an_answer_is_counted_before_it_is_read_and_whether_it_is_read_or_not(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, RAISED)]})
    running = Exchange(grid, Closing(timeout=10, quorum=1), clock=clock, sleep=clock.sleep)
    messages = [Message(RecordDict(), node, "train") for node in (1, 2)]
    counts = [(running.admitted, answer.verdict) for answer in running.run(messages)]
    assert counts == [(1, Admitted(0)), (1, Rejected("MDW-304", "scripted"))]


def test_without_a_quorum_it_waits_beyond_the_timeout_until_the_quorum_is_there(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(15, None)], 3: [(500, None)]})
    got = exchanged(grid, Closing(timeout=10, quorum=2, patience=20))
    assert got == [(1, None), (2, None), (3, NO_REPLY)]
    assert 15 <= clock.now <= 15 + TICK_SECONDS


def test_patience_runs_out_and_a_log_line_says_what_was_waited_for(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(500, None)]})
    got = exchanged(grid, Closing(timeout=10, quorum=2, patience=20))
    assert got == [(1, None), (2, NO_REPLY)]
    assert clock.now == pytest.approx(30)
    assert "quorum not reached, waiting 20 s" in caplog.text


def test_a_silo_that_comes_back_is_asked_again_while_the_exchange_is_open(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(20, None)], 2: [(1, NODE_UNAVAILABLE), (2, None)]})
    grid.silos.online_at[2] = 5
    got = exchanged(grid, Closing(timeout=100, quorum=1))
    assert got == [(2, None), (1, None)]
    assert len(grid.silos.sent) == 3


def test_the_second_asking_is_a_message_of_its_own_with_the_same_words(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(20, None)], 2: [(1, NODE_UNAVAILABLE), (2, None)]})
    content = RecordDict()
    first = Message(content, 2, "train", ttl=77.0, group_id="round 4")
    messages = [Message(RecordDict(), 1, "train"), first]
    list(exchange(grid, messages, Closing(100, quorum=2), clock=clock, sleep=clock.sleep))
    _, sent_first, again = grid.silos.sent
    assert sent_first is first
    assert again is not first, "a grid writes an id into a message that it sends"
    assert again.content is content
    m = again.metadata
    assert (m.dst_node_id, m.message_type, m.ttl, m.group_id) == (2, "train", 77.0, "round 4")


def test_a_silo_that_could_not_be_asked_is_asked_again_when_it_is_there(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(20, None)], 2: [(FAILS, None), (2, None)]})
    grid.silos.online_at[2] = 5
    got = exchanged(grid, Closing(timeout=100, quorum=1))
    assert got == [(2, None), (1, None)]
    assert clock.now >= 5


def test_a_silo_that_could_never_be_asked_is_named(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(FAILS, None)]})
    grid.silos.online_at[2] = 1000
    assert exchanged(grid, Closing(timeout=10, quorum=1)) == [(1, None), (2, NODE_UNAVAILABLE)]


def test_with_nobody_to_ask_it_waits_for_the_patience_and_no_longer(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(FAILS, None)], 2: [(FAILS, None)]})
    grid.silos.online_at = {1: 1000, 2: 1000}
    got = exchanged(grid, Closing(timeout=10, quorum=1, patience=20))
    assert got == [(1, NODE_UNAVAILABLE), (2, NODE_UNAVAILABLE)]
    assert clock.now == pytest.approx(20), "there was nobody whose reply the timeout is for"


def test_a_lost_silo_that_comes_back_within_the_patience_makes_the_quorum(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, NODE_UNAVAILABLE), (3, None)]})
    grid.silos.online_at[1] = 12
    assert exchanged(grid, Closing(timeout=10, quorum=1, patience=60)) == [(1, None)]
    assert 15 <= clock.now <= 15 + 2 * TICK_SECONDS


def test_a_lost_silo_is_given_up_when_the_others_make_the_quorum(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(4, None)], 2: [(1, NODE_UNAVAILABLE)]})
    grid.silos.online_at[2] = 1000
    got = exchanged(grid, Closing(timeout=100, quorum=1, patience=50))
    assert got == [(1, None), (2, NODE_UNAVAILABLE)]
    assert clock.now == pytest.approx(4)


def test_when_all_have_raised_it_waits_for_nobody(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, RAISED)], 2: [(2, RAISED)]})
    got = exchanged(grid, Closing(timeout=100, quorum=1, patience=50))
    assert got == [(1, RAISED), (2, RAISED)]
    assert clock.now == 2


def test_a_reply_that_comes_twice_counts_once(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(3, None)]})
    messages = [Message(RecordDict(), node, "train") for node in (1, 2)]
    running = Exchange(grid, Closing(timeout=10, quorum=2), clock=clock, sleep=clock.sleep)
    got = []
    for answer in running.run(messages):
        got.append(outcome(answer))
        grid.stray.append(answer.reply)
    assert got == [(1, None), (2, None)]
    assert running.admitted == 2


def test_a_reply_to_a_message_that_was_never_sent_is_ignored(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(2, None)]})
    never = Message(RecordDict(), 1, "train")
    never.metadata.__dict__["_message_id"] = "m99"
    grid.stray = [Message(RecordDict(), reply_to=never)]
    assert exchanged(grid, Closing(timeout=10, quorum=1)) == [(1, None)]
    assert clock.now == 2


def test_a_reply_of_another_node_is_ignored_and_costs_the_one_that_was_asked_nothing(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(2, None)]})
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = "m1"
    forged = Message(RecordDict(), reply_to=asked)
    forged.metadata.__dict__["_src_node_id"] = 7
    grid.stray = [forged]
    answers = list(exchange(grid, [asked], Closing(10, 1), clock=clock, sleep=clock.sleep))
    assert [outcome(answer) for answer in answers] == [(1, None)]
    assert answers[0].reply is not forged


def test_a_clock_that_jumps_over_the_timeout_makes_nobody_late_whose_reply_is_there(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(50, None)], 4: [(5000, None)]})
    messages = [Message(RecordDict(), node, "train") for node in (1, 2, 3, 4)]
    got = []
    closing = Closing(timeout=100, quorum=1)
    for answer in exchange(grid, messages, closing, clock=clock, sleep=clock.sleep):
        got.append(outcome(answer))
        if answer.node == 1:
            clock.now += 3600  # this process stood still for an hour
    assert got == [(1, None), (2, None), (3, None), (4, NO_REPLY)]


def test_a_clock_that_jumps_over_the_patience_makes_nobody_late_whose_reply_is_there(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(15, None)]})
    messages = [Message(RecordDict(), node, "train") for node in (1, 2)]
    running = Exchange(grid, Closing(10, quorum=2, patience=60), clock=clock, sleep=clock.sleep)
    answers = running.run(messages)
    assert outcome(next(answers)) == (1, None)
    real_replies = grid.replies

    def stands_still(message_ids: object, timeout: float | None) -> object:
        if clock.now >= 10:
            clock.now += 3600
            grid.replies = real_replies  # type: ignore[method-assign]
            return iter([])
        return real_replies(message_ids, timeout)  # type: ignore[arg-type]

    grid.replies = stands_still  # type: ignore[method-assign, assignment]
    assert [outcome(answer) for answer in answers] == [(2, None)]


def test_a_reader_that_breaks_off_leaves_no_message_open_in_the_grid(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)], 3: [(50, None)]})
    messages = [Message(RecordDict(), node, "train") for node in (1, 2, 3)]
    answers = Exchange(grid, Closing(timeout=100), clock=clock, sleep=clock.sleep).run(messages)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert grid.forgotten == {"m2", "m3"}


def test_a_reply_that_was_let_go_is_freed_before_the_wait_for_the_next(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(2, None)]})
    messages = [Message(RecordDict(), node, "train") for node in (1, 2)]
    answers = exchange(grid, messages, Closing(timeout=10), clock=clock, sleep=clock.sleep)
    answer = next(answers)
    last = weakref.ref(answer.reply)
    waited = []
    real_arrived = grid.silos.arrived

    def arrived(message_ids: object) -> object:
        waited.append(last())
        return real_arrived(message_ids)  # type: ignore[arg-type]

    grid.silos.arrived = arrived  # type: ignore[method-assign, assignment]
    gc.disable()
    try:
        del answer
        next(answers)
    finally:
        gc.enable()
    assert waited == [None]


def test_a_grid_that_loses_count_of_its_messages_is_an_error_not_a_silo_less(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: [(1, None)], 2: [(1, None)]})
    grid.push_messages = lambda messages: ["m1"]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="shorter"):
        exchanged(grid, Closing(timeout=10))


def test_a_grid_that_must_be_polled_is_asked_until_something_is_there(clock: Clock) -> None:
    grid = PolledGrid(clock, {1: [(0.05, None)], 2: [(0.2, None)], 3: [(50, None)]})
    got = exchanged(grid, Closing(timeout=1, quorum=2))
    assert got == [(1, None), (2, None), (3, NO_REPLY)]
    assert clock.now == pytest.approx(1, abs=2 * POLL_SECONDS)
    assert 90 <= grid.looks <= 110, "every hundredth of a second"


def test_the_last_look_at_a_grid_that_must_be_polled_does_not_wait(clock: Clock) -> None:
    grid = PolledGrid(clock, {1: [(0, None)], 2: [(50, None)]})
    messages = [Message(RecordDict(), node, "train") for node in (1, 2)]
    answers = exchange(grid, messages, Closing(timeout=1), clock=clock, sleep=clock.sleep)
    assert outcome(next(answers)) == (1, None)
    clock.now = 20.0
    assert outcome(next(answers)) == (2, NO_REPLY)
    assert clock.now == 20.0


def test_a_polled_grid_whose_silo_comes_back_is_asked_again(clock: Clock) -> None:
    grid = PolledGrid(clock, {1: [(1, NODE_UNAVAILABLE), (1, None)], 2: [(3, None)]})
    assert exchanged(grid, Closing(timeout=10, quorum=2)) == [(1, None), (2, None)]


def test_a_thousand_silos_answer_once_each_and_none_is_lost(clock: Clock) -> None:
    script: dict[int, list[tuple[float, int | None]]] = {}
    for node in range(1000):
        script[node] = [(0.001 * ((node * 617) % 1000), None)]
    grid = ScriptedGrid(clock, script)
    got = exchanged(grid, Closing(timeout=10, quorum=501))
    assert [node for node, _ in got] == sorted(range(1000), key=lambda n: (n * 617) % 1000)

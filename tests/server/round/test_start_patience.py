"""A silo's time at a run's start counts from when its job runs, and its queue has a limit of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from server.round.start_patience import AGAIN_SECONDS, StartPatience, WaitingLines

BOTH = ("north", "south")


def left(
    patience: StartPatience,
    now: float,
    states: Mapping[str, str] | None = None,
    missing: tuple[str, ...] = BOTH,
    spare: int = 0,
) -> float:
    return patience.left(missing, spare, states or {}, started=100.0, now=now)


def test_on_this_machine_the_time_counts_at_once() -> None:
    patience = StartPatience(600.0)
    assert left(patience, 100.0) == 600.0 and left(patience, 700.0) == 0.0


def test_a_job_that_is_queued_or_prepared_costs_no_start_time() -> None:
    patience = StartPatience(600.0, queue_timeout=7200.0)
    assert left(patience, 4000.0, dict.fromkeys(BOTH, "Queued")) == 7300.0 - 4000.0
    states = {"north": "Running", "south": "Preparing"}
    assert left(patience, 4000.0, states) == 600.0, "north runs, and its time begins now"
    assert left(patience, 4600.0, states) == 0.0
    assert left(patience, 4600.0, states, missing=("south",)) == 7300.0 - 4600.0


def test_where_nobody_tells_the_queue_s_limit_counts() -> None:
    assert left(StartPatience(600.0, queue_timeout=7200.0), 7300.0) == 0.0
    assert left(StartPatience(9000.0, queue_timeout=7200.0), 7300.0) == 1800.0, "never less than it"


def test_a_silo_that_was_there_is_waited_for_as_one_that_runs() -> None:
    patience = StartPatience(600.0, queue_timeout=7200.0, met={"north"})
    assert left(patience, 100.0, missing=("north",)) == 600.0
    assert left(patience, 100.0, {"north": "Queued"}, missing=("north",)) == 600.0


def test_one_that_is_queued_again_gets_its_time_anew() -> None:
    patience = StartPatience(600.0, queue_timeout=7200.0)
    assert left(patience, 1000.0, {"north": "Running"}, ("north",)) == 600.0
    assert left(patience, 1500.0, {"north": "Queued"}, ("north",)) == 5800.0
    assert left(patience, 2000.0, {"north": "Running"}, ("north",)) == 600.0


def test_a_run_that_needs_fewer_goes_by_the_one_it_needs() -> None:
    patience = StartPatience(600.0, queue_timeout=7200.0)
    states = {"north": "Running", "south": "Queued"}
    assert left(patience, 100.0, states) == 600.0
    assert left(patience, 100.0, states, spare=1) == 7200.0
    assert left(patience, 100.0, {}, missing=()) == float("inf")


def test_the_reason_is_told_in_the_scheduler_s_word_where_it_is_known() -> None:
    patience = StartPatience(600.0, queue_timeout=7200.0, met={"west"})
    assert patience.why("north", {"north": "Queued"}) == "Queued"
    assert "image being built" in patience.why("south", {})
    assert patience.why("west", {"west": "Running"}) == "was connected, and has gone"
    assert StartPatience(600.0).why("north", {}) == "not connected yet"


def test_lines_come_when_something_has_changed_and_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = WaitingLines()
    with caplog.at_level(logging.INFO):
        for now in (0.0, 1.0, 6.0, 7.0, 8.0):
            lines.say({"north": "Queued"}, now)
        lines.say({"north": "Preparing", "south": "Queued"}, 9.0)
        lines.say({"north": "Preparing", "south": "Queued"}, 10.0)
        lines.say({"north": "Preparing", "south": "Queued"}, 9.0 + AGAIN_SECONDS)
        lines.say({}, 9000.0)
    assert [record.message for record in caplog.records] == [
        "waiting for north: Queued",
        "waiting for north: Preparing; south: Queued",
        "waiting for north: Preparing; south: Queued",
    ]

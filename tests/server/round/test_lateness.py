"""A silo that gives no answer round after round is named, though each round closes well without it."""

from __future__ import annotations

import logging

import pytest

from server.round.lateness import Lateness
from server.run.result import RoundRecord


def closed(number: int, code: str = "MDW-359", cohort: tuple[str, ...] = ("a", "b")) -> RoundRecord:
    failed = {"b": "no reply"} if code else {}
    return RoundRecord(
        number, list(cohort), replied=["a"], failed=failed, codes={"b": code} if code else {}
    )


def test_after_three_rounds_in_a_row_a_silo_is_named(caplog: pytest.LogCaptureFixture) -> None:
    lateness = Lateness()
    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            lateness.take(closed(number))
        assert lateness.said() == {} and caplog.text == ""
        for number in (3, 4, 5, 6):
            lateness.take(closed(number))
    assert lateness.said() == {"b": "too late in the last 6 rounds (MDW-359)"}
    assert [line.getMessage() for line in caplog.records] == [
        "MDW-359: b, for 3 rounds in a row: no reply",
        "MDW-359: b, for 6 rounds in a row: no reply",
    ]


def test_an_answer_ends_the_sequence_and_another_cohort_does_not() -> None:
    lateness = Lateness()
    for number in (1, 2, 3):
        lateness.take(closed(number, "MDW-360"))
    lateness.take(closed(4, cohort=("a",)))
    assert "b" in lateness.said()
    lateness.take(closed(5, ""))
    assert lateness.said() == {}


def test_a_silo_that_fails_in_another_way_is_not_called_late() -> None:
    lateness = Lateness()
    for number in range(5):
        lateness.take(closed(number, "MDW-304"))
    assert lateness.said() == {}


def test_one_whose_evaluation_alone_was_late_has_taken_part() -> None:
    lateness = Lateness()
    for number in range(5):
        record = closed(number)
        record.replied.append("b")
        lateness.take(record)
    assert lateness.said() == {}

"""One process answers for a silo; another with its key is named and gets no work, a restarted one is none."""

from __future__ import annotations

import logging

import pytest

from server.orchestrator.twins import TOLD_SECONDS, Twins

PATIENCE = 20.0


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def twins(clock: Clock) -> Twins:
    return Twins(clock, PATIENCE)


def test_the_one_that_signed_on_last_answers_and_the_other_is_named(
    twins: Twins, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    twins.signed_on(1, "old", "here")
    assert twins.answers(1, "north", "old", "here")
    twins.signed_on(1, "new", "there")
    with caplog.at_level(logging.WARNING):
        assert not twins.answers(1, "north", "old", "here")
        assert twins.answers(1, "north", "new", "there")
        assert not twins.answers(1, "north", "old", "here")
    assert caplog.text.count("MDW-362: two processes use the key of north") == 1, "once is enough"
    assert twins.nodes() == [1]
    clock.now += PATIENCE + 1
    assert twins.nodes() == []


def test_a_restarted_silo_is_no_twin(twins: Twins) -> None:
    twins.signed_on(1, "old", "here")
    twins.signed_on(1, "new", "here")
    assert twins.answers(1, "north", "new", "here")
    assert twins.nodes() == []


def test_when_the_one_that_answers_is_silent_the_other_takes_its_place(
    twins: Twins, clock: Clock
) -> None:
    twins.signed_on(1, "old", "here")
    twins.signed_on(1, "new", "there")
    clock.now += PATIENCE + 0.1
    assert twins.answers(1, "north", "old", "here")
    assert not twins.answers(1, "north", "new", "there")


def test_two_that_take_turns_are_told_of_once(
    twins: Twins, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    twins.signed_on(1, "old", "here")
    twins.signed_on(1, "new", "there")
    with caplog.at_level(logging.WARNING):
        assert not twins.answers(1, "north", "old", "here")
        clock.now += PATIENCE + 0.1
        assert twins.answers(1, "north", "old", "here"), "the other one was silent for too long"
        assert not twins.answers(1, "north", "new", "there")
        assert twins.left(1, "old")
        twins.signed_on(1, "new", "there")
        assert not twins.answers(1, "north", "old", "here")
    assert caplog.text.count("MDW-362") == 1


def test_a_twin_that_signs_off_takes_nothing_with_it(twins: Twins) -> None:
    twins.signed_on(1, "old", "here")
    twins.signed_on(1, "new", "there")
    assert not twins.left(1, "old")
    assert twins.left(1, "new")
    assert twins.answers(1, "north", "old", "here"), "nobody else answers now"


def test_after_a_restart_of_the_orchestrator_whoever_calls_first_answers(twins: Twins) -> None:
    assert twins.answers(1, "north", "any", "here")
    assert twins.answers(2, "south", "other", "there"), "another silo is another matter"


def test_it_is_told_again_after_a_while(
    twins: Twins, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    twins.signed_on(1, "new", "there")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for _ in range(int(TOLD_SECONDS / 10) + 1):
                clock.now += 10.0
                twins.answers(1, "north", "new", "there")
                twins.answers(1, "north", "old", "here")
    assert caplog.text.count("MDW-362") == 2

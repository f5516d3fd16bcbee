"""Pauses grow to a bound, differ between commands, and are never shorter than what Azure asked for."""

from __future__ import annotations

from azureml_jobs.backends.pauses import JITTER, LONGEST, Pauses


def test_pauses_grow_to_a_bound_and_begin_again() -> None:
    pauses = Pauses(15.0, draw=lambda: 0.5)
    taken = [pauses.next() for _ in range(8)]
    assert taken[:2] == [15.0, 18.75] and taken == sorted(taken)
    assert taken[-1] == 15.0 * LONGEST
    pauses.begin_again()
    assert pauses.next() == 15.0


def test_two_commands_that_begin_together_do_not_stay_together() -> None:
    early, late = Pauses(15.0, draw=lambda: 0.0), Pauses(15.0, draw=lambda: 1.0)
    assert early.next() == 15.0 * (1 - JITTER) and late.next() == 15.0 * (1 + JITTER)


def test_what_azure_asks_for_is_waited_for() -> None:
    assert Pauses(15.0).next(asked_for=120.0) == 120.0
    assert Pauses(15.0, draw=lambda: 0.5).next(asked_for=1.0) == 15.0


def test_on_one_s_own_machine_they_stay_as_they_are() -> None:
    pauses = Pauses(0.2, grows=1.0)
    assert [pauses.next() for _ in range(3)] == [0.2] * 3

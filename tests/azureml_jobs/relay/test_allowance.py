"""Rates: what is taken, what fills up, what is remembered."""

from __future__ import annotations

from azureml_jobs.relay.allowance import Allowance, Allowances


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_allowance_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    allowance = Allowance(2.0, 3.0, clock)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    clock.now = 0.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    clock.now = 100.0
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]


def test_what_is_owed_is_waited_for() -> None:
    clock = Clock()
    allowance = Allowance(10.0, 10.0, clock)
    assert allowance.owe(10) == 0
    assert allowance.owe(5) == 0.5
    assert allowance.owe(5) == 1.0
    clock.now = 1.0
    assert allowance.owe(0) == 0


def test_each_name_has_an_allowance_of_its_own_and_few_are_remembered() -> None:
    clock = Clock()
    allowances = Allowances(2.0, clock, most=3)
    assert [allowances.take("a") for _ in range(3)] == [True, True, False]
    assert allowances.take("b")
    assert allowances.take("c")
    assert not allowances.take("a")  # asked a moment ago, and so not forgotten
    assert allowances.take("d")
    assert [allowances.take("b") for _ in range(3)] == [True, True, False]  # was forgotten

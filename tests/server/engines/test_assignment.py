"""Silos are assigned to workers evenly, and what each of them costs is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.assignment import (
    GUESSED_AFTER,
    TRAIN,
    UNEVEN,
    SiloCosts,
    WorkerAssignment,
    balanced,
)


def spread(costs: list[float], assigned: list[int], workers: int) -> float:
    loads = [
        sum(c for c, worker in zip(costs, assigned, strict=True) if worker == w)
        for w in range(workers)
    ]
    return max(loads) - min(loads)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), st.integers(1, 4))
def test_balancing_never_makes_it_worse_and_keeps_every_silo(
    costs: list[float], workers: int
) -> None:
    before = [i % workers for i in range(len(costs))]
    after = balanced(costs, before, workers)
    assert len(after) == len(costs) and set(after) <= set(range(workers))
    assert spread(costs, after, workers) <= spread(costs, before, workers) + 1e-9


def test_balancing_finds_the_even_split() -> None:
    costs = [9.0, 1.0, 9.0, 1.0, 5.0, 5.0]
    after = balanced(costs, [0, 1, 0, 1, 0, 1], 2)
    assert spread(costs, after, 2) <= UNEVEN * 15
    assert sum(a != b for a, b in zip(after, [0, 1, 0, 1, 0, 1], strict=True)) <= 2


def test_silos_are_assigned_in_turn_and_balanced_once_by_their_second_training() -> None:
    costs = SiloCosts()
    assignment = WorkerAssignment(4, 2, costs)
    assert [assignment.worker_of(i) for i in range(4)] == [0, 1, 0, 1]
    seconds = [3.0, 1.0, 3.0, 1.0]
    for extra in (100.0, 0.0):  # the first training also loads the data
        assert assignment.rebalance_once() == []
        for silo, cost in enumerate(seconds):
            costs.record(silo, TRAIN, cost + extra)
    moved = assignment.rebalance_once()
    balanced_once = [assignment.worker_of(i) for i in range(4)]
    assert spread(seconds, balanced_once, 2) == 0
    assert moved == [(i, i % 2) for i in range(4) if balanced_once[i] != i % 2]
    for silo in range(4):
        costs.record(silo, TRAIN, 50.0 if silo == 0 else 0.1)
    assert assignment.rebalance_once() == []
    assert [assignment.worker_of(i) for i in range(4)] == balanced_once


@pytest.mark.parametrize("workers", [1, 3])
def test_with_one_worker_every_silo_is_there(workers: int) -> None:
    assignment = WorkerAssignment(3, workers, SiloCosts())
    assert {assignment.worker_of(i) for i in range(3)} == set(range(workers))


def test_a_silo_that_was_asked_is_expected_to_take_the_least_that_it_took() -> None:
    costs = SiloCosts()
    assert costs.expected(0, TRAIN) is None
    for seconds in (9.0, 2.0, 3.0):
        costs.record(0, TRAIN, seconds)
    assert costs.expected(0, TRAIN) == 2.0
    assert costs.expected(0, "evaluate") is None


def test_an_unknown_silo_is_expected_to_take_as_long_as_most_of_several_did_at_first() -> None:
    costs = SiloCosts()
    for silo in range(GUESSED_AFTER):
        assert costs.expected(99, TRAIN) is None
        costs.record(silo, TRAIN, 2.0)
    # The first of a process reads the set of all: a second training is no first one either.
    costs.record(GUESSED_AFTER, TRAIN, 99.0)
    costs.record(0, TRAIN, 50.0)
    assert costs.expected(99, TRAIN) == 2.0


def test_loading_is_what_the_first_training_took_beyond_the_others() -> None:
    costs = SiloCosts()
    assert costs.loading(0) == 0.0  # in no worker's memory yet
    costs.record(0, TRAIN, 9.0)
    assert costs.loading(0) == 9.0  # nobody knows how much of it was the training
    costs.record(0, TRAIN, 2.0)
    assert costs.loading(0) == 7.0

"""Silos are assigned to workers evenly, and move at most once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.assignment import UNEVEN, WorkerAssignment, balanced


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


def test_silos_are_assigned_in_turn_and_move_once_by_their_second_training() -> None:
    assignment = WorkerAssignment(4, 2)
    assert [assignment.worker_of(i) for i in range(4)] == [0, 1, 0, 1]
    costs = [3.0, 1.0, 3.0, 1.0]
    for extra in (100.0, 0.0):  # the first training also loads the data
        assignment.rebalance_once()
        assert [assignment.worker_of(i) for i in range(4)] == [0, 1, 0, 1]
        for silo, cost in enumerate(costs):
            assignment.record(silo, cost + extra)
    assignment.rebalance_once()
    balanced_once = [assignment.worker_of(i) for i in range(4)]
    assert spread(costs, balanced_once, 2) == 0
    for silo in range(4):
        assignment.record(silo, 50.0 if silo == 0 else 0.1)
    assignment.rebalance_once()
    assert [assignment.worker_of(i) for i in range(4)] == balanced_once


@pytest.mark.parametrize("workers", [1, 3])
def test_with_one_worker_every_silo_is_there(workers: int) -> None:
    assignment = WorkerAssignment(3, workers)
    assert {assignment.worker_of(i) for i in range(3)} == set(range(workers))

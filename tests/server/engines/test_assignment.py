"""Silos live in balanced homes, and move at most once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.assignment import UNEVEN, Homes, evened


def spread(costs: list[float], homes: list[int], workers: int) -> float:
    loads = [
        sum(c for c, home in zip(costs, homes, strict=True) if home == w) for w in range(workers)
    ]
    return max(loads) - min(loads)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), st.integers(1, 4))
def test_evening_out_never_makes_it_worse_and_keeps_every_silo(
    costs: list[float], workers: int
) -> None:
    before = [i % workers for i in range(len(costs))]
    after = evened(costs, before, workers)
    assert len(after) == len(costs) and set(after) <= set(range(workers))
    assert spread(costs, after, workers) <= spread(costs, before, workers) + 1e-9


def test_evening_out_finds_the_even_split() -> None:
    costs = [9.0, 1.0, 9.0, 1.0, 5.0, 5.0]
    after = evened(costs, [0, 1, 0, 1, 0, 1], 2)
    assert spread(costs, after, 2) <= UNEVEN * 15
    assert sum(a != b for a, b in zip(after, [0, 1, 0, 1, 0, 1], strict=True)) <= 2


def test_silos_are_dealt_in_turn_and_move_once_by_their_second_training() -> None:
    homes = Homes(4, 2)
    assert [homes.of(i) for i in range(4)] == [0, 1, 0, 1]
    costs = [3.0, 1.0, 3.0, 1.0]
    for extra in (100.0, 0.0):  # the first training also loads the data
        homes.settle()
        assert [homes.of(i) for i in range(4)] == [0, 1, 0, 1]
        for silo, cost in enumerate(costs):
            homes.took(silo, cost + extra)
    homes.settle()
    settled = [homes.of(i) for i in range(4)]
    assert spread(costs, settled, 2) == 0
    for silo in range(4):
        homes.took(silo, 50.0 if silo == 0 else 0.1)
    homes.settle()
    assert [homes.of(i) for i in range(4)] == settled


@pytest.mark.parametrize("workers", [1, 3])
def test_with_one_worker_there_is_one_home(workers: int) -> None:
    homes = Homes(3, workers)
    assert {homes.of(i) for i in range(3)} == set(range(workers))

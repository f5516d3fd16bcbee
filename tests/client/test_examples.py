"""Several sets as one: every example, in order, and in memory where all of them are."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from client.examples import union


def numbered(start: int, end: int) -> TensorDataset:
    numbers = torch.arange(start, end)
    return TensorDataset(numbers, -numbers)


def read(dataset: Dataset[Any], count: int) -> list[tuple[int, int]]:
    return [(int(dataset[at][0]), int(dataset[at][1])) for at in range(count)]


EXPECTED = [(number, -number) for number in range(5)]


def test_sets_in_memory_stay_in_memory() -> None:
    whole = union([numbered(0, 2), numbered(2, 2), numbered(2, 5)])
    assert isinstance(whole, TensorDataset) and len(whole) == 5
    assert read(whole, 5) == EXPECTED


def test_one_set_that_is_not_in_memory_leaves_all_where_they_are() -> None:
    whole = union([numbered(0, 2), Subset(numbered(0, 9), [2, 3, 4])])
    assert not isinstance(whole, TensorDataset)
    assert read(whole, 5) == EXPECTED

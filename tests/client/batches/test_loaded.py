"""Sets that give one example at a time: the same draws with any number of workers, which are kept."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from client.batches import Batches, loaded
from client.batches.loaded import drop_all
from client.randomness import seed_all
from conf.errors import DataError
from conf.schema import TrainerConf

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_workers_left() -> Iterator[None]:
    yield
    drop_all()


class Augmented(Dataset[Any]):
    """Examples with draws of three generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Tensor:
        drawn = (torch.rand(1).item(), float(np.random.rand()), random.random(), os.getpid())
        return torch.tensor([index, *drawn], dtype=torch.float64)


class ByBatch(Augmented):
    """The same, a batch at a time."""

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [self[index] for index in indices]


class Lambda(Augmented):
    """A set that can't be sent to another process."""

    def __init__(self) -> None:
        self.look = lambda index: index


def epochs(dataset: Dataset[Any], workers: int, seed: int | None = 5, passes: int = 2) -> Tensor:
    made = Batches(dataset, 4, CPU, TrainerConf(loader_workers=workers), seed=seed)
    return torch.cat([batch for _ in range(passes) for batch in made])


def draws(rows: Tensor) -> Tensor:
    return rows[:, :4]


def pids(rows: Tensor) -> set[int]:
    return {int(pid) for pid in rows[:, 4]}


@pytest.mark.parametrize("kind", [Augmented, ByBatch])
def test_the_number_of_workers_changes_no_draw(kind: type[Augmented]) -> None:
    expected = epochs(kind(), 0)
    assert len(torch.unique(expected[:, 1])) == 20  # each example anew in each pass
    seed_all(99)  # what this process has drawn before is of no matter
    for workers in (0, 1, 2):
        assert torch.equal(draws(epochs(kind(), workers)), draws(expected))
    assert not torch.equal(draws(epochs(kind(), 0, seed=6)), draws(expected))


def test_a_set_that_is_read_here_draws_nothing_from_the_model_s_generators() -> None:
    seed_all(3)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    seed_all(3)
    epochs(Augmented(), 0)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_workers_are_kept_between_rounds_and_are_no_copies_of_this_process() -> None:
    train, validation = Augmented(), Augmented()
    first = pids(epochs(train, 1))
    assert first and os.getpid() not in first
    (worker,) = first
    assert psutil.Process(worker).ppid() != os.getpid()
    assert pids(epochs(validation, 1, seed=None)) != first
    assert pids(epochs(train, 1, seed=7)) == first
    # A third set takes the place of the one that was used longest ago.
    epochs(Augmented(), 1)
    assert len(loaded._loaders) == loaded.KEPT
    assert pids(epochs(train, 1)) == first


def test_a_pass_that_was_given_up_leaves_nothing_to_the_next() -> None:
    dataset = Augmented()
    expected = draws(epochs(dataset, 1))
    made = iter(Batches(dataset, 4, CPU, TrainerConf(loader_workers=1), seed=11))
    next(made)
    del made
    assert torch.equal(draws(epochs(dataset, 1)), expected)


def test_a_set_that_can_not_be_sent_is_loaded_by_copies_of_this_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = epochs(Lambda(), 1)
    assert torch.equal(draws(found), draws(epochs(Augmented(), 0)))
    assert "can't be sent" in caplog.text


class Fatal(Augmented):
    """A set whose worker is killed at one example."""

    def __getitem__(self, index: int) -> Tensor:
        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_is_killed_is_an_error_with_a_code() -> None:
    with pytest.raises(DataError, match=r"MDW-229: A process that loads examples ended"):
        epochs(Fatal(), 1)
    assert loaded._loaders == []

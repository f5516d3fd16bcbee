"""Every example once an epoch, in an order that the seed alone decides; never a last batch of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from client.batches import Batches, length
from client.batches.resident import residents
from conf.schema import TrainerConf

CPU = torch.device("cpu")


def numbered(examples: int) -> TensorDataset:
    """A set whose example k is (k, 10 k)."""
    numbers = torch.arange(examples)
    return TensorDataset(numbers, 10 * numbers)


def batches(examples: int, size: int, **more: Any) -> Batches:
    return Batches(numbered(examples), size, CPU, TrainerConf(), **more)


def sizes(made: Batches) -> list[int]:
    return [len(first) for first, _ in made]


def order(made: Batches) -> list[int]:
    return [int(number) for first, _ in made for number in first]


def test_without_a_seed_the_order_is_that_of_the_set_at_each_pass() -> None:
    made = batches(7, 3)
    assert order(made) == order(made) == list(range(7))
    assert sizes(made) == [3, 3, 1]
    assert made.examples == 7


def test_the_parts_of_an_example_stay_together() -> None:
    for first, second in batches(10, 4, seed=1):
        assert torch.equal(second, 10 * first)


def test_each_epoch_is_shuffled_anew_and_the_seed_decides_them_all() -> None:
    made = batches(50, 8, seed=3)
    epochs = [order(made), order(made)]
    again = batches(50, 8, seed=3)
    assert [order(again), order(again)] == epochs
    assert epochs[0] != epochs[1] != list(range(50))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert order(batches(50, 8, seed=4)) != epochs[0]


def test_the_seed_zero_shuffles_too() -> None:
    assert order(batches(50, 8, seed=0)) != list(range(50))


@pytest.mark.parametrize(
    ("examples", "size", "expected"),
    [
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (5, 4, [5]),
        (1, 4, [1]),  # no batch before it to join
        (3, 1, [1, 1, 1]),  # batches of one were asked for
        (2, 1, [1, 1]),
    ],
)
def test_in_pairs_a_last_batch_of_one_joins_the_one_before_it(
    examples: int, size: int, expected: list[int]
) -> None:
    made = batches(examples, size, pairs=True)
    assert sizes(made) == expected
    assert len(made) == len(expected)
    assert order(made) == list(range(examples))


@pytest.mark.parametrize(("examples", "size", "expected"), [(9, 4, 3), (8, 4, 2), (3, 5, 1)])
def test_its_length_is_its_number_of_batches(examples: int, size: int, expected: int) -> None:
    made = batches(examples, size)
    assert len(made) == len(sizes(made)) == expected


class OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """The same examples, given one at a time."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = self.inner[index]
        return first, second


def test_a_set_that_is_read_one_by_one_comes_in_the_same_order() -> None:
    loaded = Batches(OneByOne(numbered(9)), 4, CPU, TrainerConf(), seed=5, pairs=True)
    in_memory = batches(9, 4, seed=5, pairs=True)
    for _ in range(2):
        assert order(loaded) == order(in_memory)
    assert length(OneByOne(numbered(9))) == 9


def test_a_collate_of_the_task_makes_the_batches_of_a_set_in_memory_too() -> None:
    def collate(examples: list[Any]) -> dict[str, Any]:
        return {"sum": torch.stack([first for first, _ in examples]).sum(), "size": len(examples)}

    made = Batches(numbered(5), 2, CPU, TrainerConf(), collate=collate)
    assert [(int(batch["sum"]), batch["size"]) for batch in made] == [(1, 2), (5, 2), (4, 1)]


@pytest.mark.parametrize("channels_last", [True, False])
def test_only_images_of_floats_change_their_layout(channels_last: bool) -> None:
    images = torch.rand(6, 3, 4, 4)
    bytes_of_images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    rows = torch.rand(6, 5)
    conf = TrainerConf(channels_last=channels_last)
    made = Batches(TensorDataset(images, bytes_of_images, rows), 6, CPU, conf)
    image, raw, row = next(iter(made))
    last = torch.channels_last
    assert image.is_contiguous(memory_format=last) is channels_last
    assert not raw.is_contiguous(memory_format=last)
    assert torch.equal(image, images) and torch.equal(row, rows)


@pytest.mark.parametrize("keep", [True, False])
def test_a_set_in_memory_is_offered_to_the_device_only_if_the_trainer_says_so(
    keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Dataset[Any]] = []
    monkeypatch.setattr(residents, "offer", lambda dataset, device: offered.append(dataset))
    dataset = numbered(5)
    made = Batches(dataset, 2, CPU, TrainerConf(keep_on_device=keep))
    assert order(made) == list(range(5))
    assert offered == ([dataset] if keep else [])

"""A task of arrays needs its file alone: it is partitioned, split, checked, and read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from client.tasks.base import Contract
from client.tasks.kinds.arrays import Arrays, ArrayTask
from conf.errors import DataError
from conf.schema import DataConf, Silo


class Numbers(ArrayTask):
    """Rows of a text file: the last column is the target, a number; there are no classes."""

    name = "numbers"

    def __init__(self, shape: tuple[int | None, ...] = (2,)) -> None:
        self.contract = Contract(shape, targets=("y",))
        self.reads = 0

    def read(self, root: Path) -> Arrays:
        self.reads += 1
        rows = np.loadtxt(root, delimiter=",", ndmin=2)
        return rows[:, :-1], rows[:, -1:]

    def checked_targets(self, targets: Any, where: object) -> Any:
        return targets.astype(np.float32)

    def made_up_targets(self) -> Any:
        return np.zeros((3, 1), np.float32)

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return functional.mse_loss(output, batch[1])


def written(folder: Path, rows: int = 30) -> Path:
    path = folder / "rows.csv"
    np.savetxt(path, np.arange(rows * 3).reshape(rows, 3), delimiter=",")
    return path


def silos(count: int, path: Path | None, partition: str = "iid") -> list[Silo]:
    data = DataConf(root=None if path is None else str(path), partition=partition)
    return [Silo(f"silo-{i + 1}", i, count, data) for i in range(count)]


def inputs(dataset: Any) -> Tensor:
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors[0]


@pytest.mark.parametrize("partition", ["iid", "quantity"])
def test_examples_without_classes_are_partitioned(tmp_path: Path, partition: str) -> None:
    task = Numbers()
    parts = [task.data(silo) for silo in silos(3, written(tmp_path), partition)]
    rows = torch.cat(
        [inputs(split) for part in parts for split in (part.train, part.validation, part.test)]
    )
    assert sorted(rows[:, 0].tolist()) == [3.0 * row for row in range(30)]
    assert all(part.labels is None for part in parts)
    assert task.train_labels(silos(3, written(tmp_path))[0]) is None


@pytest.mark.parametrize("partition", ["dirichlet", "labels"])
def test_a_partition_by_classes_needs_classes(tmp_path: Path, partition: str) -> None:
    with pytest.raises(DataError, match=rf"MDW-211: data.partition={partition} goes by classes"):
        Numbers().data(silos(3, written(tmp_path), partition)[0])


def test_a_task_may_say_what_to_partition_by(tmp_path: Path) -> None:
    class Halves(Numbers):
        def labels(self, examples: Arrays) -> Any:
            return (examples[1][:, 0] > 45).astype(np.int64)

    data = DataConf(root=str(written(tmp_path)), partition="labels", labels_per_silo=1)
    parts = [Halves().data(Silo(f"s{i}", i, 2, data)) for i in range(2)]
    assert sorted(len(set(part.labels.tolist())) for part in parts) == [1, 1]


def test_a_set_is_read_once_for_all_silos_and_again_when_it_changes(tmp_path: Path) -> None:
    task = Numbers()
    path = written(tmp_path)
    for silo in silos(3, path):
        task.train_labels(silo)
        task.data(silo)
    assert task.reads == 1
    written(tmp_path, rows=40)
    assert len(inputs(task.data(silos(1, path, "own")[0]).train)) == 32 and task.reads == 2


def test_a_file_deep_in_a_folder_that_changes_is_noticed(tmp_path: Path) -> None:
    class Folder(Numbers):
        def read(self, root: Path) -> Arrays:
            return super().read(root / "deep/rows.csv")

    task = Folder()
    (tmp_path / "deep").mkdir()
    (tmp_path / "gone").symlink_to("nothing")
    path = written(tmp_path / "deep")
    task.data(silos(1, tmp_path)[0])
    os.utime(path, ns=(1, 1))
    task.data(silos(1, tmp_path)[0])
    assert task.reads == 2


def test_a_set_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MDW-200: The task numbers reads .* data.root, which is"):
        Numbers().data(silos(1, None)[0])
    with pytest.raises(DataError, match=r"MDW-200: data.root=.*there is no .*/no"):
        Numbers().data(silos(1, tmp_path / "no")[0])


def test_targets_of_another_number_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MDW-202: x .*: it has 4 examples and targets \(3, 1\)"):
        Numbers().checked((np.zeros((4, 2)), np.zeros((3, 1))), "x")


COLOUR = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
GREY = np.arange(2 * 4 * 5).reshape(2, 4, 5)


@pytest.mark.parametrize(
    ("shape", "stored", "as_model"),
    [
        ((3, 4, 5), COLOUR, COLOUR),
        ((3, 4, 5), COLOUR.transpose(0, 2, 3, 1), COLOUR),
        ((1, 4, 5), GREY, GREY[:, None]),
        ((1, 4, 5), GREY[:, None], GREY[:, None]),
        ((1, 4, 5), GREY[..., None], GREY[:, None]),
        ((3, None, 5), COLOUR.transpose(0, 2, 3, 1), COLOUR),
        ((4, 5), GREY, GREY),
        ((11,), np.ones((2, 11)), np.ones((2, 11))),
        ((), np.ones(2), np.ones(2)),
    ],
)
def test_each_layout_reaches_the_model_as_the_contract_says(
    shape: tuple[int | None, ...], stored: np.ndarray, as_model: np.ndarray
) -> None:
    task = Numbers(shape)
    examples = task.checked((stored, np.zeros((2, 1))), "x")
    images = inputs(task.dataset(examples, slice(None)))
    assert images.is_contiguous() and np.array_equal(images.numpy(), as_model)


@pytest.mark.parametrize(
    ("shape", "stored", "theirs"),
    [
        ((3, 4, 5), COLOUR[:, :2], r"\(3, 4, 5\) or \(4, 5, 3\) of numbers"),
        ((3, 4, 5), GREY, r"\(3, 4, 5\) or \(4, 5, 3\) of numbers"),
        ((1, None, 5), GREY[:, :, :4], r"\(1, any, 5\) or \(any, 5, 1\) or \(any, 5\)"),
        ((2,), np.zeros((2, 3)), r"\(2,\) of numbers"),
    ],
)
def test_another_layout_is_refused_with_those_that_fit(
    shape: tuple[int | None, ...], stored: np.ndarray, theirs: str
) -> None:
    with pytest.raises(DataError, match=rf"MDW-202: x .* the task's are {theirs}"):
        Numbers(shape).checked((stored, np.zeros((2, 1))), "x")


def test_a_task_whose_examples_are_in_no_file_says_so(tmp_path: Path) -> None:
    class Drawn(Numbers):
        read = ArrayTask.read

        def public(self, data: DataConf) -> Arrays:
            return np.zeros((9, 2)), np.zeros((9, 1))

    assert len(inputs(Drawn().data(silos(1, None)[0]).train)) == 7
    with pytest.raises(DataError, match=r"MDW-200: .*: the task numbers reads no files"):
        Drawn().data(silos(1, tmp_path, "own")[0])

"""A silo gets its part of a public set, or its owner's own examples, in three splits."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from client.tasks import class_counts, task_named
from client.tasks.base import Contract
from conf.errors import DataError
from conf.schema import DataConf, Silo

DIGITS, MNIST = task_named("digits"), task_named("mnist")


def silos(count: int, data: DataConf) -> list[Silo]:
    return [Silo(f"silo-{i + 1}", i, count, data) for i in range(count)]


def tensors(dataset: Dataset[Any]) -> tuple[torch.Tensor, ...]:
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors


def rows(dataset: Dataset[Any]) -> list[bytes]:
    return [x.numpy().tobytes() for x in tensors(dataset)[0]]


def test_digits_are_1797_images_in_all_between_0_and_1() -> None:
    parts = [DIGITS.data(silo) for silo in silos(3, DataConf())]
    splits = [split for part in parts for split in (part.train, part.validation, part.test)]
    images = torch.cat([tensors(split)[0] for split in splits])
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert len(rows(TensorDataset(images))) == 1797


def test_a_silo_finds_the_same_examples_each_time_and_holds_out_its_shares() -> None:
    silo = silos(3, DataConf(partition="iid", validation=0.05, test=0.2))[1]
    one = DIGITS.data(silo)
    again = DIGITS.data(silo)
    assert rows(one.train) == rows(again.train)
    assert rows(one.validation) == rows(again.validation)
    assert rows(one.test) == rows(again.test)
    assert [len(rows(split)) for split in (one.train, one.validation, one.test)] == [449, 30, 120]
    assert not set(rows(one.train)) & set(rows(one.validation) + rows(one.test))
    assert one.labels is not None and np.array_equal(one.labels, tensors(one.train)[1].numpy())


def test_class_counts_are_those_of_the_training_splits() -> None:
    members = silos(3, DataConf())
    counts = class_counts(DIGITS, members)
    assert list(counts) == ["silo-1", "silo-2", "silo-3"]
    for silo in members:
        _, labels = tensors(DIGITS.data(silo).train)
        assert counts[silo.name] == [int((labels == digit).sum()) for digit in range(10)]


def test_only_the_first_examples_are_used_where_asked() -> None:
    data = DIGITS.data(silos(1, DataConf(examples=30, validation=0, test=0))[0])
    assert [len(rows(split)) for split in (data.train, data.validation, data.test)] == [30, 0, 0]


def test_digits_refuse_a_root_that_would_go_unused() -> None:
    with pytest.raises(DataError, match=r"MDW-200: data.root=/x, but .* Set data.partition=own"):
        DIGITS.data(silos(1, DataConf(root="/x"))[0])


@pytest.mark.parametrize("as_file", [True, False])
def test_a_silo_s_own_digits_are_used_whole(tmp_path: Path, as_file: bool) -> None:
    x = np.random.default_rng(0).integers(0, 17, (20, 8, 8))
    np.savez_compressed(tmp_path / "digits.npz", x=x, y=np.arange(20) % 10)
    root = tmp_path / "digits.npz" if as_file else tmp_path
    data = DIGITS.data(Silo("north", 4, 5, DataConf(root=str(root), partition="own")))
    assert [len(rows(split)) for split in (data.train, data.validation, data.test)] == [16, 2, 2]
    assert sorted(rows(data.train) + rows(data.validation) + rows(data.test)) == sorted(
        (row / 16).astype(np.float32).tobytes() for row in x
    )


def test_own_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    for root, says in (
        (None, "without data.root"),
        (tmp_path / "no", "there is no .*no"),
        (tmp_path, "digits.npz"),
    ):
        with pytest.raises(DataError, match=f"MDW-200: .*{says}"):
            DIGITS.data(Silo("north", data=DataConf(root=root and str(root), partition="own")))


GOOD = np.zeros((4, 8, 8))
LABELS = np.arange(4)
BREACHES = {
    "shape": (np.zeros((4, 9, 8)), LABELS),
    "not images": (np.zeros(4), LABELS),
    "type": (GOOD.astype("S3"), LABELS),
    "counts": (GOOD, np.arange(5)),
    "label too high": (GOOD, np.array([0, 1, 2, 10])),
    "label too low": (GOOD, np.array([0, 1, 2, -1])),
    "labels of float": (GOOD, LABELS * 1.0),
    "not finite": (np.full((4, 8, 8), np.nan), LABELS),
}


@pytest.mark.parametrize("examples", BREACHES.values(), ids=BREACHES)
def test_a_breach_of_the_data_contract_is_named(
    tmp_path: Path, examples: tuple[np.ndarray, np.ndarray]
) -> None:
    np.savez(tmp_path / "digits.npz", x=examples[0], y=examples[1])
    with pytest.raises(DataError, match=r"MDW-202: .* breaks the data contract: it"):
        DIGITS.data(Silo("north", data=DataConf(root=str(tmp_path), partition="own")))


def test_own_data_without_an_example_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", x=GOOD[:0], y=LABELS[:0])
    with pytest.raises(DataError, match=r"MDW-205: north has no examples"):
        DIGITS.data(Silo("north", data=DataConf(root=str(tmp_path), partition="own")))


def test_metrics_of_known_guesses() -> None:
    outputs = torch.eye(10)[[0, 0, 1, 1]] * 5
    batch = (torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 0, 1]))
    metrics = DIGITS.metrics(DIGITS.sums(outputs, batch))
    assert metrics == {"accuracy": 0.75, "f1": pytest.approx((0.8 + 2 / 3) / 2)}
    batch = (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
    assert DIGITS.loss(torch.zeros(4, 10), batch).item() == pytest.approx(np.log(10))


def write_mnist(folder: Path, part: str, count: int, packed: bool = False, side: int = 28) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(
            gzip.compress(head + array.tobytes()) if packed else head + array.tobytes()
        )


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("inside", ["", "MNIST/raw"], ids=["root", "raw"])
def test_mnist_is_read_where_its_files_lie(tmp_path: Path, inside: str, packed: bool) -> None:
    write_mnist(tmp_path / inside, "train", 100, packed)
    write_mnist(tmp_path / inside, "t10k", 30, packed)
    data = DataConf(root=str(tmp_path), partition="iid", download=False)
    parts = [MNIST.data(silo) for silo in silos(2, data)]
    assert [len(rows(part.train)) for part in parts] == [40, 40]
    images, labels = tensors(parts[0].train)
    assert images.shape == (40, 1, 28, 28) and labels.dtype == torch.int64
    assert float(images.min()) == pytest.approx(-0.1307 / 0.3081) and float(
        images.max()
    ) == pytest.approx(0.8693 / 0.3081)
    test = MNIST.test(data)
    assert test is not None and tensors(test)[0].shape == (30, 1, 28, 28)


def test_mnist_that_is_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    data = DataConf(root=str(tmp_path / "mnist"), download=False)
    with pytest.raises(
        DataError, match=r"MDW-200: There are no MNIST files .* in .*/mnist .*data.download=true"
    ):
        MNIST.data(silos(2, data)[0])
    assert MNIST.test(data) is None and not (tmp_path / "mnist").exists()


def test_a_download_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST as Torchvision

    monkeypatch.setattr(Torchvision, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(
        DataError, match=r"MDW-206: MNIST could not be downloaded to .*data.download=false"
    ):
        MNIST.data(silos(2, DataConf(root=str(tmp_path)))[0])
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_download_comes_in_whole_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST as Torchvision

    calls = []

    def fetch(self: Any) -> None:
        calls.append(self.raw_folder)
        for part, count in (("train", 50), ("t10k", 20)):
            write_mnist(Path(self.raw_folder), part, count)

    monkeypatch.setattr(Torchvision, "download", fetch)
    data = DataConf(root=str(tmp_path / "new"), partition="iid")
    assert len(rows(MNIST.data(silos(2, data)[0]).train)) == 20
    assert MNIST.test(data) is not None and len(calls) == 1
    assert {p.parent.name for p in (tmp_path / "new").rglob("*ubyte")} == {"raw"}


def test_a_silo_s_own_mnist_is_used_whole(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 50)
    own = DataConf(root=str(tmp_path), partition="own")
    data = MNIST.data(Silo("north", 1, 3, own))
    assert len(rows(data.train) + rows(data.validation) + rows(data.test)) == 50
    assert MNIST.test(own) is None
    with pytest.raises(DataError, match=r"MDW-200"):
        MNIST.data(Silo("north", data=dataclasses.replace(own, root=str(tmp_path / "elsewhere"))))


def test_mnist_of_another_size_breaks_the_contract(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 50, side=27)
    with pytest.raises(DataError, match=r"MDW-202: .*its examples are \(27, 27\)"):
        MNIST.data(Silo("north", data=DataConf(root=str(tmp_path), partition="own")))


def test_files_that_changed_are_read_again(tmp_path: Path) -> None:
    data = DataConf(root=str(tmp_path), partition="own", validation=0, test=0)
    for count in (50, 60):
        write_mnist(tmp_path, "train", count, packed=True)
        assert len(rows(MNIST.data(Silo("north", data=data)).train)) == count


def test_a_contract_names_its_classes_in_order() -> None:
    assert Contract((1, 8, 8), tuple("0123456789")) == DIGITS.contract

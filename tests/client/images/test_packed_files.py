"""Images that are packed in a few files: idx and CIFAR-10's own, read whole or refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.images.packed_files import has_test, packed
from conf.errors import DataError


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(root: Path, train: int = 60, test: int = 20) -> tuple[NDArray[np.uint8], ...]:
    """Write idx files of ten classes that a small network tells apart."""
    root.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    made = []
    for stem, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = draw.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 8, 4:24] += 180
        (root / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (root / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
        made += [images, labels]
    return tuple(made)


def write_cifar(root: Path, each: int = 20) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write the six binary files; return all images and labels of the five for training."""
    root.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    labels = (np.arange(6 * each) % 10).astype(np.uint8)
    images = draw.integers(0, 60, (6 * each, 3, 32, 32)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label % 3, 2 * label : 2 * label + 8] += 180
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    for place, name in enumerate(names):
        part = slice(place * each, (place + 1) * each)
        rows = np.concatenate([labels[part, None], images[part].reshape(each, -1)], axis=1)
        (root / name).write_bytes(rows.tobytes())
    return images[: 5 * each], labels[: 5 * each]


def test_idx_files_are_found_where_torchvision_puts_them(tmp_path: Path) -> None:
    images, labels, tested, _ = write_fashion(tmp_path / "FashionMNIST/raw")

    found, classes = packed(tmp_path, "idx", "train", (1, 28, 28))

    assert np.array_equal(found[:, 0], images) and classes.tolist() == labels.tolist()
    assert has_test(tmp_path, "idx")
    assert np.array_equal(packed(tmp_path, "idx", "test", (1, 28, 28))[0][:, 0], tested)


def test_cifar_is_red_green_and_blue_of_five_files(tmp_path: Path) -> None:
    images, labels = write_cifar(tmp_path / "cifar-10-batches-bin")

    found, classes = packed(tmp_path, "cifar", "train", (3, 32, 32))

    assert np.array_equal(found, images) and classes.tolist() == labels.tolist()
    assert len(packed(tmp_path, "cifar", "test", (3, 32, 32))[0]) == 20


def test_another_size_is_resized_and_grey_made_colour(tmp_path: Path) -> None:
    images, *_ = write_fashion(tmp_path)

    found, _ = packed(tmp_path, "idx", "train", (3, 14, 14))

    assert found.shape == (60, 3, 14, 14) and found.dtype == np.uint8
    assert np.array_equal(found[:, 0], found[:, 2])
    assert abs(float(found.mean()) - float(images.mean())) < 2


def test_what_is_not_there_or_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data_batch_1") as caught:
        packed(tmp_path, "cifar", "train", (3, 32, 32))
    assert caught.value.code == "MDW-200"
    write_cifar(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    for content, why in (
        (file.read_bytes()[:-1], "no whole number of images"),
        (b"", "no whole number of images"),
        (b"\x0a" + file.read_bytes()[1:], "labels beyond 9"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=why) as caught:
            packed(tmp_path, "cifar", "train", (3, 32, 32))
        assert caught.value.code == "MDW-201"
        write_cifar(tmp_path)
    with pytest.raises(DataError, match="3 channels, the contract says 1"):
        packed(tmp_path, "cifar", "train", (1, 32, 32))


def test_labels_without_an_image_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(DataError, match="60 images and 59 labels"):
        packed(tmp_path, "idx", "train", (1, 28, 28))

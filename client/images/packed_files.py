"""Sets of images that are packed in a few files: idx, as MNIST and Fashion-MNIST are, and CIFAR-10.

    idx     train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., plain or .gz
    cifar   data_batch_1.bin to data_batch_5.bin, test_batch.bin

They lie in the root, or in a folder where their archive or torchvision puts them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client.formats.cifar import read_cifar
from client.formats.idx import read_idx
from conf.errors import DataError

IDX: Final = "idx"
CIFAR: Final = "cifar"
FOLDERS: Final = (".", "MNIST/raw", "FashionMNIST/raw", "cifar-10-batches-bin")
_PARTS: Final = {"train": "train", "test": "t10k"}

Packed = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, channels, height, width), and the class of each."""


def packed(root: Path, kind: str, part: str, shape: tuple[int, int, int]) -> Packed:
    """Return the images of a part, `train` or `test`, in the shape of the contract.

    Raises DataError: MDW-200 where its files are not there, MDW-201 for one that is broken, MDW-245
    for images of another size, MDW-246 for labels without an image.
    """
    images, labels = _READERS[kind](root, part)
    if len(images) != len(labels):
        raise DataError(
            "MDW-246",
            f"{root} has {len(images)} images and {len(labels)} labels.",
            "Fetch or write its files again.",
            {"expected": "a label for each image", "found": "another number of labels"},
        )
    if images.shape[1:] == shape:
        return images, labels
    channels = images.shape[1]
    if (channels, shape[0]) not in ((1, 1), (1, 3), (3, 3)):
        raise DataError(
            "MDW-245",
            f"{root} holds images of {channels} channels, the contract says {shape[0]}.",
            "Correct task.channels.",
            {"expected": "an image", "found": "of other channels"},
        )
    return _shaped(images, shape), labels


def _idx(root: Path, part: str) -> Packed:
    stem = _PARTS[part]
    images = read_idx(_found(root, f"{stem}-images-idx3-ubyte"), 3)
    labels = read_idx(_found(root, f"{stem}-labels-idx1-ubyte"), 1).astype(np.int64)
    return images[:, None], labels


def _cifar(root: Path, part: str) -> Packed:
    if part == "test":
        return read_cifar(_found(root, "test_batch.bin"))
    parts = [read_cifar(_found(root, f"data_batch_{number}.bin")) for number in range(1, 6)]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


_READERS: Final[dict[str, Callable[[Path, str], Packed]]] = {IDX: _idx, CIFAR: _cifar}


def has_test(root: Path, kind: str) -> bool:
    """Whether a set's test files are there."""
    name = "test_batch.bin" if kind == CIFAR else "t10k-images-idx3-ubyte"
    return _place(root, name) is not None


def _found(root: Path, name: str) -> Path:
    path = _place(root, name)
    if path is None:
        raise DataError(
            "MDW-200", f"There is no {name} in {root}.", "Set data.root to where it is."
        )
    return path


def _place(root: Path, name: str) -> Path | None:
    places = [root / folder / (name + suffix) for folder in FOLDERS for suffix in ("", ".gz")]
    return next((path for path in places if path.is_file()), None)


def _shaped(images: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = shape
    made = np.empty((len(images), *shape), np.uint8)
    for begin in range(0, len(images), 1024):
        some = torch.from_numpy(np.array(images[begin : begin + 1024], np.float32))
        some = torch.nn.functional.interpolate(
            some, (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        some = some.expand(-1, channels, -1, -1)
        made[begin : begin + 1024] = some.round().clamp(0, 255).to(torch.uint8).numpy()
    return made

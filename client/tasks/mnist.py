"""MNIST: handwritten digits of 28 x 28 pixels, 60,000 to train on and 10,000 to test (LeCun et al.
1998).

Read from idx files, plain or .gz, in `data.root` or its `MNIST/raw`, where torchvision puts them
when it downloads. A silo's own examples are idx files of the same names.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from client.formats.idx import read_idx
from client.tasks.base import OWN, Contract
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.classification import Classification
from conf.errors import DataError
from conf.files.homes import cache_folder, expanded
from conf.files.whole import put_over
from conf.schema import DataConf

RAW = "MNIST/raw"
MEAN, STD = 0.1307, 0.3081
"""Of the pixels of the training set, from 0 to 1."""


class Mnist(Classification):
    """Which digit, from 28 x 28 pixels."""

    contract = Contract((1, 28, 28), tuple("0123456789"))

    def public(self, data: DataConf) -> Arrays:
        """Return the 60,000 training examples, downloaded first where `data.download` allows it."""
        root = home(data)
        if not _there(root, "train") and data.download:
            _download(root)
        return _read(root, "train")

    def read(self, root: Path) -> Arrays:
        """Return the training files that a silo keeps under `root`."""
        return _read(root, "train")

    def test(self, data: DataConf) -> Dataset[Any] | None:
        """Return the 10,000 test examples; none where the data is a silo's own, or has no test
        files.
        """
        root = home(data)
        if data.partition == OWN:
            return None
        if not _there(root, "t10k") and data.download:
            _download(root)
        if not _there(root, "t10k"):
            return None
        examples = self.checked(_read(root, "t10k"), root)
        return self.dataset(examples, slice(None))

    def scaled(self, images: Tensor) -> Tensor:
        """Return bytes as values of mean 0 and standard deviation 1 over the training set."""
        return images.div_(255).sub_(MEAN).div_(STD)


def home(data: DataConf) -> Path:
    """Return the folder of the public set: `data.root`, or one in the user's cache."""
    return expanded(data.root) if data.root else cache_folder() / "meadow/mnist"


def _files(root: Path, part: str) -> list[Path | None]:
    """The images and the labels of a part, each where it is found first."""
    stems = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
    places = [(folder, suffix) for folder in (root, root / RAW) for suffix in ("", ".gz")]
    return [next((p for f, s in places if (p := f / (stem + s)).is_file()), None) for stem in stems]


def _there(root: Path, part: str) -> bool:
    return all(_files(root, part))


def _read(root: Path, part: str) -> Arrays:
    images, labels = _files(root, part)
    if images is None or labels is None:
        raise DataError(
            "MDW-200",
            f"There are no MNIST files ({part}-images-idx3-ubyte, {part}-labels-idx1-ubyte) in {root} or its {RAW}.",
            "Set data.root to where they are, or data.download=true to fetch them.",
        )
    return _read_files(images, labels, images.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_files(images: Path, labels: Path, changed: int) -> Arrays:
    return read_idx(images, 3), read_idx(labels, 1).astype(np.int64)


def _download(root: Path) -> None:
    """Fetch the set with torchvision into a folder beside it, and move the files in whole.

    So two processes that fetch at once do no harm, and an interrupted download leaves nothing half
    there.
    """
    from torchvision.datasets import MNIST  # seconds to import: only where it is used

    class Fresh(MNIST):  # type: ignore[misc]  # torchvision has no types
        def _check_legacy_exist(self) -> bool:
            return False  # its old format is a pickle

    try:
        (root / RAW).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
            Fresh(folder, download=True)
            for file in (Path(folder) / "Fresh/raw").glob("*-ubyte"):
                put_over(file, root / RAW / file.name)
    except (OSError, RuntimeError) as e:
        raise DataError(
            "MDW-206",
            f"MNIST could not be downloaded to {root}: {str(e).strip().splitlines()[-1]}.",
            "Put its idx files there yourself and set data.download=false, or set data.root.",
        ) from e

"""Handwritten digits: 1,797 real images of 8 x 8 pixels that ship with scikit-learn (UCI, Alpaydin
& Kaynak 1998).

A silo's own examples: an .npz file, or a folder with `digits.npz`, of `x` (n, 8, 8) with values 0
to 16 and `y` (n); other arrays (n) may be what `data.group` names.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from client.formats.npz import names_in_npz, read_npz
from client.groups import Columns
from client.tasks.base import Contract
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.classification import Classification
from conf.errors import DataError
from conf.schema import DataConf

EXAMPLES: Final = ("x", "y")
"""The arrays of a silo's own file that are its examples."""


class Digits(Classification):
    """Which digit, from 8 x 8 pixels."""

    contract = Contract((1, 8, 8), tuple("0123456789"))

    def public(self, data: DataConf) -> Arrays:
        """Return scikit-learn's digits."""
        if data.root is not None:
            raise DataError(
                "MDW-200",
                f"data.root={data.root}, but data.partition={data.partition} partitions the public digits.",
                "Set data.partition=own to train on the silo's own examples, or leave data.root out.",
            )
        return _public()

    def read(self, root: Path) -> Arrays:
        """Return `x` and `y` of the silo's .npz file."""
        x, y = read_npz(_own_file(root), EXAMPLES)
        return x, y

    def columns(self, root: Path) -> Columns:
        """Return the file's other arrays: who wrote each digit, say."""
        path = _own_file(root)
        names = [name for name in names_in_npz(path) if name not in EXAMPLES]
        return dict(zip(names, read_npz(path, names), strict=True))

    def scaled(self, images: Tensor) -> Tensor:
        """Return values of 0 to 16 as 0 to 1."""
        return images / 16


def _own_file(root: Path) -> Path:
    path = root / "digits.npz" if root.is_dir() else root
    if not path.is_file():
        raise DataError(
            "MDW-200",
            f"There is no {path}.",
            "Put the examples there: arrays x (n, 8, 8) and y (n).",
        )
    return path


@cache
def _public() -> Arrays:
    # As scikit-learn's own load_digits reads it, without the second that importing scikit-learn
    # takes.
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.float64)
    images = rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8)
    return images, rows[:, -1].astype(np.int64)

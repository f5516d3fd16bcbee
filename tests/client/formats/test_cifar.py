"""CIFAR-10's binary files are read as what they are, and no pickle is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.formats.cifar import read_cifar
from conf.errors import DataError


def test_a_row_is_a_label_then_red_green_and_blue(tmp_path: Path) -> None:
    row = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024
    (tmp_path / "one.bin").write_bytes(row * 2)

    images, labels = read_cifar(tmp_path / "one.bin")

    assert labels.tolist() == [7, 7]
    assert np.array_equal(images[1, :, 0, 0], [1, 2, 3]) and images.shape == (2, 3, 32, 32)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_cifar(tmp_path / "none.bin")
    assert caught.value.code == "MDW-201"

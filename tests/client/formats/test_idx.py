"""idx files are read whole or refused; a header is not believed."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from client.formats.idx import read_idx
from conf.errors import DataError


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def test_plain_and_packed_files_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx(IMAGES))
    (tmp_path / "b.gz").write_bytes(gzip.compress(idx(IMAGES)))
    assert np.array_equal(read_idx(tmp_path / "a", 3), IMAGES)
    assert np.array_equal(read_idx(tmp_path / "b.gz", 3), IMAGES)
    assert isinstance(read_idx(tmp_path / "a", 3), np.memmap)


def test_an_empty_set_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx(IMAGES[:0]))
    (tmp_path / "b.gz").write_bytes(gzip.compress(idx(IMAGES[:0])))
    assert read_idx(tmp_path / "a", 3).shape == read_idx(tmp_path / "b.gz", 3).shape == (0, 4, 3)


HUGE = (4_000_000_000, 4_000_000_000, 4_000_000_000)
BROKEN = {
    "short": idx(IMAGES)[:-1],
    "long": idx(IMAGES) + b"x",
    "header cut": idx(IMAGES)[:9],
    "nothing": b"",
    "labels, not images": idx(IMAGES.reshape(-1)),
    "another type": b"\0\0\x0d\x03" + idx(IMAGES)[4:],
    "claims 64 exabytes": idx(IMAGES, HUGE),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, body: bytes, packed: bool) -> None:
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(body) if packed else body)
    with pytest.raises(DataError, match=r"MDW-201: .*images.* can't be read"):
        read_idx(path, 3)


def test_a_file_that_is_not_packed_but_says_so_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(idx(IMAGES))
    with pytest.raises(DataError, match=r"MDW-201"):
        read_idx(tmp_path / "a.gz", 3)
    (tmp_path / "b.gz").write_bytes(gzip.compress(idx(IMAGES))[:-12])
    with pytest.raises(DataError, match=r"MDW-201"):
        read_idx(tmp_path / "b.gz", 3)

"""npz files are read whole or refused; no object in them is ever made."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from client.formats.npz import read_npz
from conf.errors import DataError

X, Y = np.arange(24.0).reshape(2, 3, 4), np.array([1, 2])


def test_named_arrays_come_in_the_order_asked_for(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y, other=np.zeros(3))
    y, x = read_npz(tmp_path / "a.npz", ("y", "x"))
    assert np.array_equal(x, X) and np.array_equal(y, Y)


def claiming(shape: tuple[int, ...]) -> bytes:
    """An array whose header claims a shape that its bytes don't have."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(64)


def write(path: Path, x: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", x)


@pytest.mark.parametrize("shape", [(9,), (7,), (10**15,), (-1,)], ids=str)
def test_a_header_is_not_believed(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write(tmp_path / "a.npz", claiming(shape))
    with pytest.raises(
        DataError, match=r"MDW-201: .*a.npz can't be read: its array 'x' should have"
    ):
        read_npz(tmp_path / "a.npz", ("x",))


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(DataError, match=r"MDW-201: .*holds Python objects"):
        read_npz(tmp_path / "a.npz", ("x",))


def test_what_is_missing_or_no_archive_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    with pytest.raises(DataError, match=r"MDW-201: .*it has no array 'y'"):
        read_npz(tmp_path / "a.npz", ("x", "y"))
    for body in (b"", b"not a zip file", (tmp_path / "a.npz").read_bytes()[:100]):
        (tmp_path / "b.npz").write_bytes(body)
        with pytest.raises(DataError, match=r"MDW-201"):
            read_npz(tmp_path / "b.npz", ("x",))
    write(tmp_path / "c.npz", b"no npy header")
    with pytest.raises(DataError, match=r"MDW-201"):
        read_npz(tmp_path / "c.npz", ("x",))

"""npz files of numpy: named arrays in a zip archive."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from conf.errors import DataError


def read_npz(path: Path, names: Sequence[str]) -> list[NDArray[np.generic]]:
    """Return the named arrays of an .npz file; arrays of objects (pickles) are refused.

    Raises DataError MDW-201 where one is missing, or its bytes are not what its own header says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                _check(path, archive, name)
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as e:
        raise _broken(path, str(e)) from e


def names_in_npz(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz file; raises DataError MDW-201."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as e:
        raise _broken(path, str(e)) from e
    return sorted(name.removesuffix(".npy") for name in members if name.endswith(".npy"))


def _check(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Numpy takes memory for the shape that a header claims: the claim must be what the archive
    holds.
    """
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise _broken(path, f"it has no array '{name}'")
    info = archive.getinfo(member)
    if info.file_size > 1032 * info.compress_size:
        raise _broken(path, f"its array '{name}' claims {info.file_size} bytes")
    with archive.open(info) as file:
        shape, dtype = _header(file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise _broken(path, f"its array '{name}' holds Python objects")
    if size != info.file_size:
        raise _broken(path, f"its array '{name}' should have {size} bytes and has {info.file_size}")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = npy.read_magic(file)
    shape, _, dtype = (
        npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    )
    return shape, dtype


def _broken(path: Path, why: str) -> DataError:
    return DataError(
        "MDW-201", f"{path} can't be read: {why}.", "Write it again with numpy.savez_compressed."
    )

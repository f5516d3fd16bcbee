"""idx files, the format of MNIST: a magic number, the sizes as big-endian 32-bit integers, then the
bytes.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conf.errors import DataError

UNSIGNED_BYTE = 0x08
"""The only type of value that MNIST and its relatives have."""


def read_idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """Return an idx file of `dims` dimensions; a plain one stays on disk and is mapped, a .gz one
    is unpacked.

    Raises DataError MDW-201 where the bytes are not what the file's own header says.
    """
    header = 4 + 4 * dims
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header)
            if len(start) < header or start[:4] != bytes([0, 0, UNSIGNED_BYTE, dims]):
                raise _broken(
                    path, f"it does not begin like an idx file of bytes in {dims} dimensions"
                )
            shape = tuple(int(n) for n in np.frombuffer(start[4:], dtype=">u4"))
            size = math.prod(shape)
            if path.suffix != ".gz":
                _same_size(path, path.stat().st_size - header, size)
                return (
                    np.memmap(path, np.uint8, "r", offset=header, shape=shape)
                    if size
                    else np.zeros(shape, np.uint8)
                )
            body = _unpack(path, file, size)  # type: ignore[arg-type]  # a GzipFile reads bytes
    except (OSError, EOFError) as e:
        raise _broken(path, str(e)) from e
    return np.frombuffer(body, np.uint8).reshape(shape)


def _unpack(path: Path, file: gzip.GzipFile, size: int) -> bytes:
    """A gzip file unpacks to at most 1,032 times its size: a header that claims more is not
    believed.
    """
    if size > 1032 * path.stat().st_size:
        raise _broken(path, f"its header claims {size} bytes")
    body = file.read(size + 1)
    _same_size(path, len(body), size)
    return body


def _same_size(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise _broken(
            path,
            f"its header says {expected} bytes, and it has {'more' if found > expected else found}",
        )


def _broken(path: Path, why: str) -> DataError:
    return DataError("MDW-201", f"{path} can't be read: {why}.", "Fetch or write the file again.")

"""DICOM images: rescaled, windowed as the file says, and the right way round.

No value of a file's header leaves this module: it may name a patient.

    MDW-247 the reader of DICOM is not installed    MDW-248 a DICOM file that can't be used
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf.errors import DataError

PREAMBLE: Final = 128
MAGIC: Final = b"DICM"
FULL: Final = 255.0
MOST_PIXELS: Final = 100_000_000
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
"""The transfer syntax of PS3.5 A.5."""


def is_dicom(path: Path) -> bool:
    """Say whether a file's first bytes are those of a DICOM file."""
    with path.open("rb") as file:
        return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC


def read_dicom(path: Path) -> NDArray[np.float32]:
    """Return the pixels of an image as 0 to 255 (height, width, channels).

    Stored values are rescaled and windowed as the file says (PS3.3 C.11), from its smallest to its
    largest value where it says nothing; MONOCHROME1 is turned round. Raises DataError: MDW-247
    without pydicom, MDW-248 for several frames, or a file that can't be decoded.
    """
    try:
        import pydicom
        from pydicom.filereader import read_file_meta_info
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise DataError(
            "MDW-247",
            "DICOM images need pydicom, which is not installed.",
            "Install meadow-federated[dicom].",
        ) from None
    try:
        # All of such a file is packed once more: what it unpacks to has no bound.
        if read_file_meta_info(path).TransferSyntaxUID == DEFLATED:
            raise _unfit(path, "deflated as a whole")
        file = pydicom.dcmread(path)
        _check(path, file)
        stored = file.pixel_array
        if stored.ndim == 3:
            return stored.astype(np.float32)
        values = apply_voi_lut(apply_modality_lut(stored, file), file).astype(np.float32)
        inverted = file.PhotometricInterpretation == "MONOCHROME1"
    except DataError:
        raise
    except Exception as error:
        # Whatever a decoder raises may quote the header: its kind is enough, and the chain has it.
        raise _unfit(path, f"not to be decoded ({type(error).__name__})") from error
    return _scaled(values, inverted)[:, :, None]


def _check(path: Path, file: Any) -> None:
    if int(getattr(file, "NumberOfFrames", 1) or 1) > 1:
        raise _unfit(path, "of several frames")
    if int(file.Rows) * int(file.Columns) > MOST_PIXELS:
        raise _unfit(path, "too large")


def _scaled(values: NDArray[np.float32], inverted: bool) -> NDArray[np.float32]:
    low = float(values.min())
    span = float(values.max()) - low
    pixels = np.zeros_like(values) if span == 0 else (values - low) * (FULL / span)
    return FULL - pixels if inverted else pixels


def _unfit(path: Path, why: str) -> DataError:
    return DataError(
        "MDW-248",
        f"{path} is {why}.",
        "Export single images of it, or remove it.",
        {"expected": "a DICOM image", "found": why.split(" (")[0]},
    )

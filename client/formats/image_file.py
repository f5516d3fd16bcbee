"""Images in files: JPEG, PNG and TIFF of 8 and 16 bits, and DICOM, as pixels of 0 to 255.

The first bytes of a file say what it is, not its name. How large an image claims to be is looked at
before it is decoded.

    MDW-245 a file that is no image of the contract
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from client.formats.dicom import is_dicom, read_dicom
from client.formats.room import check_room
from conf.errors import DataError

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm")
FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP")
MOST_PIXELS: Final = 100_000_000
"""Of one image: a larger claim is not decoded."""
OF_A_PIXEL: Final = 3 * 4 * 3
"""Bytes while it is read: of three colours, as float32, three times."""
FULL: Final = 255.0


def read_image(path: Path, channels: int, height: int, width: int, *, resize: bool) -> Tensor:
    """Return an image as uint8 (channels, height, width): grey or colour, whatever it was.

    Raises DataError: MDW-245 for what is no image, is cut off, or has another size where it is not
    resized; MDW-250 where the memory does not hold it; MDW-247 where it is a DICOM file and its
    reader is not installed.
    """
    pixels = _pixels(path)
    shaped = _with_channels(torch.from_numpy(pixels), channels)
    if tuple(shaped.shape[1:]) == (height, width):
        return shaped.round().clamp(0, FULL).to(torch.uint8)
    if not resize:
        raise _unfit(path, "of another size")
    resized = torch.nn.functional.interpolate(
        shaped[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].round().clamp(0, FULL).to(torch.uint8)


def _pixels(path: Path) -> NDArray[np.float32]:
    """Return pixels of 0 to 255 (height, width, channels)."""
    try:
        if is_dicom(path):
            return read_dicom(path)
        with warnings.catch_warnings():
            # Pillow warns of an image that could fill the memory; ours has a limit of its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return _decoded(path, image)
    except UnidentifiedImageError:
        raise _unfit(path, "no JPEG, PNG, TIFF, BMP or DICOM") from None
    except Image.DecompressionBombError:
        raise _unfit(path, "too large") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _unfit(path, "cut off or broken") from error


def _decoded(path: Path, image: Image.Image) -> NDArray[np.float32]:
    claimed = image.width * image.height
    if claimed > MOST_PIXELS:
        raise _unfit(path, "too large")
    check_room(path, claimed * OF_A_PIXEL, f"{image.width:,} x {image.height:,} pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise _unfit(path, "of several pages")
    if image.mode.startswith("I"):
        # 16 bits, grey; Pillow opens them as I;16 or I.
        return (np.asarray(image, np.float32) * (FULL / 65535))[:, :, None]
    plain = image if image.mode in ("L", "RGB") else image.convert(_plain_mode(image))
    pixels = np.asarray(plain, np.float32)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _plain_mode(image: Image.Image) -> str:
    return "L" if image.mode in ("1", "LA") else "RGB"


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Return (height, width, any) as (channels, height, width) of float32."""
    there = pixels.movedim(-1, 0).contiguous()
    if len(there) == channels:
        return there
    if channels == 3:
        return there.expand(3, -1, -1).contiguous()
    # Rec. 601, as Pillow makes grey of colour.
    weights = torch.tensor([0.299, 0.587, 0.114])
    return (there * weights[:, None, None]).sum(0, keepdim=True)


def _unfit(path: Path, why: str) -> DataError:
    return DataError(
        "MDW-245",
        f"{path} is {why}.",
        "Correct or remove it, or set data.on_error=skip.",
        {"expected": "an image", "found": why},
    )

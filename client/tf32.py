"""Whether a GPU multiplies fp32 with TF32's ten bits of mantissa: stated by the run, for matrix
products and convolutions alike.

torch by itself uses TF32 in convolutions and not in matrix products. Its older switches
(`allow_tf32`) are set, because they move the newer ones (`fp32_precision`) along: the newer ones
alone leave the two in disagreement, which releases of torch's compiler before 2.12 do not survive.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

# torch makes modules of properties of them, which mypy can't see.
_cuda: Any = torch.backends.cuda
_cudnn: Any = torch.backends.cudnn
# Only since torch 2.9.
_NEWER: Final = (
    (_cuda.matmul, _cudnn.conv, _cudnn.rnn) if hasattr(_cuda.matmul, "fp32_precision") else ()
)
TF32: Final = "tf32"


@contextmanager
def tf32(device: torch.device, *, allowed: bool) -> Iterator[None]:
    """Let products of fp32 on a CUDA device use TF32 or not; outside all is as it was before."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = _products(), _convolutions()
    newer = [backend.fp32_precision for backend in _NEWER]
    _set(allowed, allowed)
    try:
        yield
    finally:
        _set(products, convolutions)
        for backend, value in zip(_NEWER, newer, strict=True):
            backend.fp32_precision = value


def _products() -> bool:
    if _NEWER:
        return bool(_cuda.matmul.fp32_precision == TF32)
    return bool(_cuda.matmul.allow_tf32)


def _convolutions() -> bool:
    if _NEWER:
        return bool(_cudnn.conv.fp32_precision == TF32)
    return bool(_cudnn.allow_tf32)


def _set(products: bool, convolutions: bool) -> None:
    with warnings.catch_warnings():
        # That they are the older ones.
        warnings.simplefilter("ignore")
        _cuda.matmul.allow_tf32 = products
        _cudnn.allow_tf32 = convolutions

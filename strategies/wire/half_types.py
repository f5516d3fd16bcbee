"""Element types of two bytes, as they travel and as numbers that are computed with.

A model of bfloat16 or float16 travels as it is, in both directions. Whoever computes with its arrays
has them as float32, which holds every value of either; what is made of them is rounded once, when it
becomes a model again.

numpy has no bfloat16. On the wire its bits are seen as uint16, which would be taken for a counter;
where such arrays are kept to be computed with later they have the type `BITS`, of which numpy makes
no sum by mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from strategies.chunks import chunks
from strategies.wire.objects import BFLOAT16, array_of, as_declared, elements

FLOAT16: Final = "float16"
HALVES: Final = (BFLOAT16, FLOAT16)
FLOATS: Final = ("float32", "float64", *HALVES)
"""The types of the wire of which a mean is taken."""
BITS: Final = np.dtype([(BFLOAT16, "<u2")])
"""An array of bfloat16, of two bytes a value."""
NAN: Final = 0x7FC0
_ROUND = np.uint32(0x7FFF)


def is_half(dtype: np.dtype[Any]) -> bool:
    """Say whether an array of this type of numpy's holds values of two bytes."""
    return dtype == BITS or dtype == np.float16


def tagged(array: Array) -> NDArray[Any]:
    """Return the elements of an array in their shape, without a copy; bfloat16 as `BITS`."""
    return as_type(elements(array), array.dtype)


def as_type(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return elements of a type of the wire, as they lie there, with bfloat16 as `BITS`."""
    return values.view(BITS) if dtype == BFLOAT16 else values


def of_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the values of bfloat16 from their bits: the upper half of a float32 each."""
    wide: NDArray[np.uint32] = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def wide(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of halves as float32, exactly; any other array is returned as it is."""
    if values.dtype == BITS:
        return of_bits(values[BFLOAT16])
    return values.astype(np.float32) if values.dtype == np.float16 else values


def numbers(array: Array) -> NDArray[Any]:
    """Return the elements of an array as numbers, those of halves as float32."""
    return wide(tagged(array))


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return numbers in a type of the wire's floats, rounded once, to the nearest and ties to even.

    bfloat16 is returned as its bits. A value beyond the type's range becomes infinite.
    """
    if dtype != BFLOAT16:
        with np.errstate(over="ignore"):
            return values.astype(dtype, copy=False)
    flat = np.ascontiguousarray(values).reshape(-1)
    made = np.empty(flat.size, np.uint16)
    for at in chunks(flat.size):
        piece = flat[at]
        single = piece if piece.dtype == np.float32 else _to_odd(piece)
        bits = single.view(np.uint32)
        # Half of the last place that stays, and one less where that place is even.
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        odd += _ROUND
        odd += bits
        odd >>= np.uint32(16)
        made[at] = odd
        lost = np.isnan(single)
        if lost.any():
            # The sum carries a NaN into a number.
            made[at][lost] = NAN
    return made.reshape(values.shape)


def _to_odd(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return values as float32 whose last bit is set where something was rounded off.

    So that rounding them again gives what one rounding would have (Boldo & Melquiond 2008,
    "Emulation of FMA and correctly rounded sums", IEEE Transactions on Computers 57-4).
    """
    exact = values.astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        near = exact.astype(np.float32)
        again = near.astype(np.float64)
        bits = near.view(np.uint32)
        # One less in magnitude where it was rounded away from zero.
        bits -= np.abs(again) > np.abs(exact)
        bits |= again != exact
    return near


class Numbers(Mapping[str, NDArray[Any]]):
    """The arrays of a record as numbers, each decoded when it is asked for."""

    def __init__(self, record: ArrayRecord) -> None:
        self._record = record

    def __getitem__(self, name: str) -> NDArray[Any]:
        return numbers(self._record[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def __len__(self) -> int:
        return len(self._record)


def as_sent(values: NDArray[Any], sent: Array) -> Array:
    """Return an array of a model in the type in which it was sent, where that is one of floats."""
    if sent.dtype in FLOATS and str(values.dtype) != sent.dtype:
        return as_declared(sent.dtype, rounded(values, sent.dtype))
    return array_of(values)


def widened(record: ArrayRecord) -> ArrayRecord:
    """Return a record with float32 in the place of halves; of all others the very same arrays."""
    if not any(array.dtype in HALVES for array in record.values()):
        return record
    made = ArrayRecord()
    for name, array in record.items():
        made[name] = array_of(numbers(array)) if array.dtype in HALVES else array
    return made

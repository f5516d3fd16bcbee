"""What an array of a reply must be: the layout that was sent, found out before any value is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from flwr.app import Array

from conf.errors import Interrupted
from server.round.judgement import AdmissionFault
from strategies.wire.objects import DTYPES, view


@dataclass(frozen=True)
class ArrayLayout:
    """The type and shape that an array must have."""

    dtype: str
    shape: tuple[int, ...]

    def values_of(self, name: str, array: Array) -> np.ndarray:
        """Return an update's elements without a copy, once declaration, header and size agree.

        Raises AdmissionFault MDW-612 or 613.
        """
        found = (array.dtype, tuple(array.shape))
        if found != (self.dtype, self.shape):
            raise AdmissionFault(
                "MDW-612", f"{name!r:.80} is {_short(*found)}, not {_short(self.dtype, self.shape)}"
            )
        try:
            return elements_of(array)
        except Interrupted:
            raise
        except Exception as error:
            # numpy's reader of headers raises more than it says, and none of it may end the run.
            raise AdmissionFault(
                "MDW-613", f"{name!r:.80} can't be read ({error!s:.200})"
            ) from None


@dataclass(frozen=True)
class Reference(ArrayLayout):
    """One array of the global model.

    Its layout, which an update's must have, and what norms are from.
    """

    values: np.ndarray

    @staticmethod
    def of(array: Array) -> Reference:
        """Return an array of the model as it was sent."""
        return Reference(array.dtype, tuple(array.shape), elements_of(array))


def elements_of(array: Array) -> np.ndarray:
    """Return the elements in one row; bfloat16 as its bits."""
    return np.frombuffer(view(array), DTYPES[array.dtype])


def difference_of(found: Collection[str], expected: Collection[str]) -> str:
    """Return in words which names are missing and which are there besides."""
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    parts = []
    if missing:
        parts.append(f"without {few(missing)}")
    if extra:
        parts.append(f"with {few(extra)}")
    return ", ".join(parts)


def few(names: Collection[str]) -> str:
    """Return at most three names of bounded length: they come from another party and end in
    logs.
    """
    if not names:
        return "none"
    listed = ", ".join(f"{name!r:.80}" for name in list(names)[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"


def _short(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype:.20} {_sides(shape)}"


def _sides(shape: tuple[int, ...]) -> str:
    # A side of thousands of digits can't even be printed: Python refuses to.
    sides = [str(side) if side < 2**63 else "?" for side in shape[:6]]
    return f"({', '.join(sides)}{',' if len(sides) == 1 else ''})"[:60]

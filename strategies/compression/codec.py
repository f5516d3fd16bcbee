"""What a codec is: from a change of the model to arrays for the wire, and back.

A change is new - sent, of the parameters that are trained. Its arrays lie one behind the other in a
*row* of float32, in the order of their names, so that however many arrays a model has, one or two
travel. What travels is known from the model's shapes alone (`Codec.layout`): whoever receives it
knows all sizes before it looks at a value, and refuses anything else.

Decoding happens at the server with numbers that a silo chose. Any numbers of the right sizes end in
a change or in `ValueError`; whether the change is finite and not too large is for admission to say,
which sees the decoded values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
"""A change, flat."""
Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name; bfloat16 as the uint16 of its bits."""
Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a model's arrays that are coded, in the order in which they lie in a row."""
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""The type (a name of the wire's) and shape of each array that travels, by name."""


class Seeds(NamedTuple):
    """What a silo draws from: `own` in this round alone, `shared` by all silos of the round."""

    own: int
    shared: int


@dataclass(frozen=True)
class Encoded:
    """A change as it travels, and what the silo remembers of it for its next round."""

    arrays: Arrays
    memory: Arrays = field(default_factory=dict)


class Codec(ABC):
    """One form of a change. It has no state: what lasts is handed in and out."""

    remembers: ClassVar[bool] = False
    """Whether a silo keeps what was left out, to send it later (error feedback)."""

    @abstractmethod
    def layout(self, shapes: Shapes) -> Layout:
        """Return what travels of a model of these shapes."""

    @abstractmethod
    def encode(self, row: Row, shapes: Shapes, seeds: Seeds, memory: Arrays) -> Encoded:
        """Return a change as it travels; the row is finite, and is this function's to overwrite.

        `memory` is what the last round of this silo that counted left.
        Raises ValueError for a change that this form can't hold.
        """

    @abstractmethod
    def decode(self, arrays: Arrays, shapes: Shapes, shared: int) -> Iterator[tuple[str, Row]]:
        """Yield the change of each array of the model by name, flat, in memory of its own.

        The arrays have the layout's types and sizes; nothing else is known of them. `shared` is
        the seed of the round (`Seeds`). Raises ValueError for values that can't be.
        """


def size_of(shapes: Shapes) -> int:
    """Return how many values a row has."""
    return sum(math.prod(shape) for shape in shapes.values())


def parts(shapes: Shapes) -> Iterator[tuple[str, slice]]:
    """Yield where each array lies in the row."""
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        yield name, slice(start, end)
        start = end


def add_kept(row: Row, memory: Arrays, name: str = "residual") -> None:
    """Add to a row what was left out of the rounds before, where it is of this model."""
    kept = memory.get(name)
    if kept is not None and kept.shape == row.shape and kept.dtype == row.dtype:
        row += kept

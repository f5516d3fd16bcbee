"""Two bytes a value: bfloat16 (float32's range, 8 bits of precision) and float16 (11 bits of
precision, magnitudes from 6e-8 to 65504), rounded to the nearest, ties to even.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from strategies.compression.codec import (
    Arrays,
    Codec,
    Encoded,
    Layout,
    Row,
    Seeds,
    Shapes,
    parts,
    size_of,
)
from strategies.wire.half_types import of_bits

VALUES: Final = "values"
CHUNK: Final = 1 << 16
"""Values a step, so that its buffers stay in the processor's cache."""
INFINITE: Final = 65520.0
"""From here on float16 rounds to infinity."""


class BFloat16(Codec):
    """The upper half of each float32."""

    def layout(self, shapes: Shapes) -> Layout:
        """See `Codec`."""
        return {VALUES: ("bfloat16", (size_of(shapes),))}

    def encode(self, row: Row, shapes: Shapes, seeds: Seeds, memory: Arrays) -> Encoded:
        """See `Codec`."""
        bits = row.view(np.uint32)
        values = np.empty(row.size, np.uint16)
        for start in range(0, row.size, CHUNK):
            piece = bits[start : start + CHUNK]
            # Half of the last place that stays, and one less where that place is even.
            odd = (piece >> np.uint32(16)) & np.uint32(1)
            odd += np.uint32(0x7FFF)
            odd += piece
            values[start : start + CHUNK] = odd >> np.uint32(16)
        return Encoded({VALUES: values})

    def decode(self, arrays: Arrays, shapes: Shapes, shared: int) -> Iterator[tuple[str, Row]]:
        """See `Codec`."""
        for name, at in parts(shapes):
            yield name, of_bits(arrays[VALUES][at])


class Float16(Codec):
    """IEEE 754's binary16."""

    def layout(self, shapes: Shapes) -> Layout:
        """See `Codec`."""
        return {VALUES: ("float16", (size_of(shapes),))}

    def encode(self, row: Row, shapes: Shapes, seeds: Seeds, memory: Arrays) -> Encoded:
        """See `Codec`; raises ValueError beyond 65504."""
        # Asked of the row: numpy takes long for the largest of halves.
        if row.size and max(row.max(), -row.min()) >= INFINITE:
            raise ValueError("a value is beyond 65504, the largest of fp16")
        values = row.astype(np.float16)
        return Encoded({VALUES: values})

    def decode(self, arrays: Arrays, shapes: Shapes, shared: int) -> Iterator[tuple[str, Row]]:
        """See `Codec`."""
        for name, at in parts(shapes):
            yield name, arrays[VALUES][at].astype(np.float32)

"""How an array is worked on: some elements at a time, which stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

CHUNK: Final = 1 << 14
"""Elements: 128 KiB of each temporary in float64."""


def chunks(size: int) -> Iterator[slice]:
    """Return the parts of an array of this many elements, one after another."""
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))

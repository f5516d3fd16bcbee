"""Whole numbers of 8 or 4 bits, with one float32 scale for each block of values.

A block's scale is its largest magnitude divided by the largest code (127, or 7). Each value over
its scale is rounded up or down at random, in proportion to how near it is to either (stochastic
rounding, as in QSGD, Alistarh et al. 2017, arXiv 1610.02132): the expectation of what is decoded is
the value itself, so that the errors of many silos and rounds cancel, and nothing has to be
remembered. No block has values of two arrays.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

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

CODES: Final = "codes"
SCALES: Final = "scales"
CHUNK: Final = 1 << 15
"""Values a step, so that its buffers stay in the processor's cache."""
SMALLEST: Final = np.float32(1e-30)
"""A largest magnitude below which a block is zero: one over its scale would be no float32."""

Codes = NDArray[np.int8]


class Blockwise(Codec):
    """What 8 and 4 bits have in common."""

    most: ClassVar[int]
    """The largest code; the smallest is its negative."""

    def __init__(self, block: int) -> None:
        self.block = block

    def layout(self, shapes: Shapes) -> Layout:
        """See `Codec`."""
        blocks = sum(self._blocks(math.prod(shape)) for shape in shapes.values())
        dtype, count = self._packed(size_of(shapes))
        return {CODES: (dtype, (count,)), SCALES: ("float32", (blocks,))}

    def encode(self, row: Row, shapes: Shapes, seeds: Seeds, memory: Arrays) -> Encoded:
        """See `Codec`."""
        draws = np.random.SFC64(seeds.own)
        codes = np.empty(row.size, np.int8)
        scales = []
        for _, at in parts(shapes):
            for start, end, width in self._pieces(at.start, at.stop):
                found, of_blocks = self._coded(row[start:end].reshape(-1, width), draws)
                codes[start:end] = found.reshape(-1)
                scales.append(of_blocks)
        joined = np.concatenate(scales) if scales else np.empty(0, np.float32)
        return Encoded({CODES: self._pack(codes), SCALES: joined})

    def decode(self, arrays: Arrays, shapes: Shapes, shared: int) -> Iterator[tuple[str, Row]]:
        """See `Codec`."""
        scales = arrays[SCALES]
        used = 0
        for name, at in parts(shapes):
            change = np.empty(at.stop - at.start, np.float32)
            for start, end, width in self._pieces(at.start, at.stop):
                codes = self._unpack(arrays[CODES], start, end).reshape(-1, width)
                of_blocks = scales[used : used + len(codes)]
                used += len(codes)
                into = change[start - at.start : end - at.start].reshape(-1, width)
                np.multiply(codes, of_blocks[:, None], out=into)
            yield name, change

    def _coded(self, blocks: Row, draws: np.random.SFC64) -> tuple[NDArray[np.float32], Row]:
        """Return the codes of some blocks, as floats that are whole numbers, and their scales."""
        top = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
        top[top < SMALLEST] = 0
        scales: Row = top / np.float32(self.most)
        over = np.zeros_like(scales)
        np.divide(np.float32(1), scales, out=over, where=scales > 0)
        codes = blocks * over[:, None]
        codes += _uniform(draws, blocks.size).reshape(blocks.shape)
        np.floor(codes, out=codes)
        # A quotient may be rounded to just beyond the largest code.
        np.clip(codes, -self.most, self.most, out=codes)
        return codes, scales

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, width of a block) of what is coded at a time in one array."""
        step = max(CHUNK // self.block, 1) * self.block
        whole = start + (stop - start) // self.block * self.block
        for at in range(start, whole, step):
            yield at, min(at + step, whole), self.block
        if whole < stop:
            yield whole, stop, stop - whole

    def _blocks(self, values: int) -> int:
        return -(-values // self.block)

    @abstractmethod
    def _packed(self, values: int) -> tuple[str, int]:
        """Return the type of the codes as they travel, and how many elements they are."""

    @abstractmethod
    def _pack(self, codes: Codes) -> NDArray[np.generic]:
        """Return codes as they travel."""

    @abstractmethod
    def _unpack(self, packed: NDArray[np.generic], start: int, end: int) -> Codes:
        """Return the codes from `start` to `end`."""


class Int8(Blockwise):
    """A byte a value."""

    most = 127

    def _packed(self, values: int) -> tuple[str, int]:
        return "int8", values

    def _pack(self, codes: Codes) -> NDArray[np.generic]:
        return codes

    def _unpack(self, packed: NDArray[np.generic], start: int, end: int) -> Codes:
        return packed[start:end]  # type: ignore[return-value]  # the layout says int8


class Int4(Blockwise):
    """Two values a byte, the earlier one in the lower half; a code is stored plus 8."""

    most = 7

    def _packed(self, values: int) -> tuple[str, int]:
        return "uint8", -(-values // 2)

    def _pack(self, codes: Codes) -> NDArray[np.generic]:
        packed = np.empty(-(-codes.size // 2), np.uint8)
        for start in range(0, codes.size, 2 * CHUNK):
            halves = (codes[start : start + 2 * CHUNK] + np.int8(8)).view(np.uint8)
            low = halves[0::2]
            low[: halves.size // 2] |= halves[1::2] << np.uint8(4)
            packed[start // 2 : start // 2 + low.size] = low
        return packed

    def _unpack(self, packed: NDArray[np.generic], start: int, end: int) -> Codes:
        pairs: NDArray[np.uint8] = packed[start // 2 : -(-end // 2)]  # type: ignore[assignment]  # the layout says uint8
        codes = np.empty(2 * pairs.size, np.int8)
        codes[0::2] = (pairs & np.uint8(15)).view(np.int8)
        codes[1::2] = (pairs >> np.uint8(4)).view(np.int8)
        codes -= np.int8(8)
        first = start % 2
        return codes[first : first + end - start]


def _uniform(draws: np.random.SFC64, count: int) -> NDArray[np.float32]:
    """Return draws between 0 and 1, 65,536 different ones, from a quarter as many words.

    Of the generator's own words, which no release of numpy changes.
    """
    words = draws.random_raw(-(-count // 4)).view("<u2")[:count]
    uniform: NDArray[np.float32] = words.astype(np.float32)
    uniform += np.float32(0.5)
    uniform *= np.float32(2.0**-16)
    return uniform

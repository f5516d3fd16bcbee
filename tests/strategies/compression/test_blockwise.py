"""Whole numbers of 8 and 4 bits: near, without a bias, and each block by itself."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.compression.blockwise import CODES, SCALES, Blockwise, Int4, Int8
from strategies.compression.codec import Seeds
from tests.strategies.compression.models import SHAPES, change, decoded, encoded, there_and_back

BOTH = pytest.mark.parametrize("codec", [Int8(256), Int4(256), Int8(100), Int4(17)])


@BOTH
def test_no_value_is_further_off_than_a_step_of_its_block(codec: Blockwise) -> None:
    shapes = {"row": (5000,)}
    row = change(shapes)
    off = np.abs(there_and_back(codec, row, shapes) - row)
    for start in range(0, 5000, codec.block):
        at = slice(start, start + codec.block)
        assert off[at].max() <= 1.0001 * np.abs(row[at]).max() / codec.most


@BOTH
def test_the_mean_of_many_roundings_is_the_value(codec: Blockwise) -> None:
    shapes = {"row": (1024,)}
    row = change(shapes)
    times = 400
    total = np.zeros(1024)
    for seed in range(times):
        total += there_and_back(codec, row, shapes, seeds=Seeds(seed, 0))
    step = np.abs(row).max() / codec.most
    # A rounding has a deviation of half a step at most.
    assert np.abs(total / times - row).max() < 5 * step / 2 / times**0.5


def test_a_large_array_does_not_spoil_a_small_one_beside_it() -> None:
    shapes = {"large": (100,), "small": (100,)}
    row = np.concatenate([np.full(100, 1e6), np.linspace(-1e-6, 1e-6, 100)]).astype(np.float32)
    back = there_and_back(Int8(256), row, shapes)
    assert np.abs(back[100:] - row[100:]).max() < 1e-8


def test_any_bytes_are_some_change() -> None:
    for codec in (Int8(256), Int4(256)):
        good = encoded(codec, change()).arrays
        codes = np.frombuffer(np.random.default_rng(0).bytes(good[CODES].nbytes), good[CODES].dtype)
        back = decoded(codec, {CODES: codes, SCALES: np.ones_like(good[SCALES])})
        assert np.abs(back).max() <= 128


def test_the_largest_value_keeps_its_size() -> None:
    row = np.array([0.1, -0.7, 0.3], np.float32)
    for codec in (Int8(256), Int4(256)):
        assert there_and_back(codec, row, {"row": (3,)})[1] == pytest.approx(-0.7)


def test_an_odd_number_of_values_is_packed_two_a_byte() -> None:
    for count in (1, 2, 3, 255, 256, 257, 70_001):
        shapes = {"a": (1,), "row": (count,)}
        row = change(shapes, scale=1)
        sent = encoded(Int4(16), row, shapes).arrays
        assert sent[CODES].size == (count + 2) // 2
        back = decoded(Int4(16), sent, shapes)
        # As the codes of a byte each would be decoded: the draws are the same.
        eight = Int8(16)
        eight.most = 7  # type: ignore[misc]  # of this one alone
        assert (back == there_and_back(eight, row, shapes)).all()


def test_all_shapes_have_their_blocks() -> None:
    _, (blocks,) = Int8(256).layout(SHAPES)[SCALES]
    assert blocks == 1 + 0 + 274 + 302 + 1 + 1 + 5

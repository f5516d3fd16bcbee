"""Two factors for each matrix: exact where the rank is enough, better from round to round."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.compression.codec import Seeds
from strategies.compression.lowrank import FACTORS, WARM, WHOLE, LowRank
from tests.strategies.compression.models import change, decoded, encoded, there_and_back


def of_rank(rank: int, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(rank)
    matrix = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return matrix.astype(np.float32).reshape(-1)


@pytest.mark.parametrize("shape", [(300, 200), (20, 5000), (64, 16, 3, 3)])
def test_a_matrix_of_the_rank_comes_back(shape: tuple[int, ...]) -> None:
    columns = int(np.prod(shape[1:]))
    row = of_rank(3, shape[0], columns)
    back = there_and_back(LowRank(3), row, {"m": shape})
    np.testing.assert_allclose(back, row, atol=1e-4 * np.abs(row).max())


def test_a_matrix_of_less_than_the_rank_comes_back_too() -> None:
    row = of_rank(1, 40, 50)
    back = there_and_back(LowRank(4), row, {"m": (40, 50)})
    np.testing.assert_allclose(back, row, atol=1e-4 * np.abs(row).max())


def test_what_is_no_matrix_or_too_small_travels_whole() -> None:
    shapes = {"bias": (100,), "large": (100, 100), "small": (4, 4)}
    codec = LowRank(4)
    assert codec.layout(shapes) == {FACTORS: ("float32", (800,)), WHOLE: ("float32", (116,))}
    row = change(shapes)
    back = there_and_back(codec, row, shapes)
    assert (back[:100] == row[:100]).all() and (back[-16:] == row[-16:]).all()


def test_with_the_q_of_the_round_before_the_same_matrix_is_met_better() -> None:
    shapes = {"m": (120, 80)}
    noise = change(shapes, scale=0.3)
    row = of_rank(4, 120, 80) + noise

    def off(memory: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        made = encoded(LowRank(4), row, shapes, memory=memory)
        left = float(np.linalg.norm(decoded(LowRank(4), made.arrays, shapes) - row))
        return left, {WARM: made.memory[WARM]}  # type: ignore[dict-item]  # a row of float32

    first, warm = off({})
    second, _ = off(warm)
    best = float(np.sqrt((np.linalg.svd(row.reshape(120, 80))[1][4:] ** 2).sum()))
    assert best <= second < first


def test_a_column_that_died_is_drawn_anew() -> None:
    shapes = {"m": (40, 50)}
    nothing = np.zeros(2000, np.float32)
    dead = encoded(LowRank(2), nothing, shapes)
    assert not dead.memory[WARM].any()
    row = of_rank(2, 40, 50)
    made = encoded(LowRank(2), row, shapes, memory={WARM: dead.memory[WARM]}, seeds=Seeds(9, 9))
    back = decoded(LowRank(2), made.arrays, shapes)
    np.testing.assert_allclose(back, row, atol=1e-3 * np.abs(row).max())


def test_what_is_remembered_of_another_model_is_not_used() -> None:
    shapes = {"m": (40, 50)}
    row = of_rank(2, 40, 50)
    odd = {WARM: np.ones(3, np.float32), "residual": np.ones(3, np.float32)}
    once = encoded(LowRank(2), row, shapes).arrays
    again = encoded(LowRank(2), row, shapes, memory=odd).arrays
    assert once[FACTORS].tobytes() == again[FACTORS].tobytes()

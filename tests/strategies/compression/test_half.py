"""Two bytes a value, rounded to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strategies.compression.half import BFloat16, Float16
from tests.strategies.compression.models import change, encoded, there_and_back


def test_bf16_rounds_as_torch_does_to_the_bit() -> None:
    row = change(scale=10)
    row[:4] = [1.00390625, 1.01171875, -0.0, 3e38]  # ties to even, both ways
    expected = torch.from_numpy(row).to(torch.bfloat16).float().numpy()
    assert there_and_back(BFloat16(), row).tobytes() == expected.tobytes()


def test_fp16_rounds_as_numpy_does() -> None:
    row = change(scale=10)
    assert (there_and_back(Float16(), row) == row.astype(np.float16).astype(np.float32)).all()


@pytest.mark.parametrize("value", [7e4, -7e4, 65520, -65520])
def test_a_change_beyond_fp16_is_refused_and_not_made_infinite(value: float) -> None:
    row = change()
    row[5] = value
    with pytest.raises(ValueError, match="65504"):
        encoded(Float16(), row)


def test_the_largest_that_rounds_to_a_number_is_one() -> None:
    row = np.array([65519.99, -65519.99], np.float32)
    assert there_and_back(Float16(), row, {"row": (2,)}).tolist() == [65504, -65504]

"""What counts of guesses give, also where there are none."""

from __future__ import annotations

import math

import torch

from client.tasks.kinds.confusion import accuracy, confusion, macro_f1, mean_iou, ratio


def test_rows_are_true_classes_and_columns_guesses() -> None:
    counts = confusion(torch.tensor([0, 2, 2]), torch.tensor([0, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]


def test_known_counts_give_known_metrics() -> None:
    counts = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert accuracy(counts) == 5 / 6
    # The third class does not occur, and is left out.
    assert macro_f1(counts) == (6 / 7 + 4 / 5) / 2
    assert mean_iou(counts) == (3 / 4 + 2 / 3) / 2


def test_of_nothing_they_are_undefined() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    assert math.isnan(accuracy(nothing)) and math.isnan(macro_f1(nothing))
    assert math.isnan(mean_iou(nothing)) and math.isnan(ratio(0, 0))

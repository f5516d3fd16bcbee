"""Max-pooling by 2 that does not look for the places of the maxima where nobody asks for them.

torch's own notes for each output which input it came from, also where no gradient is wanted. On a
CPU that takes several times as long as the maxima, half of an evaluation of a small CNN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaxPool2(nn.MaxPool2d):
    """torch's `MaxPool2d(2)`, with the same values: (..., height, width) to half of each side."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        """Return the largest of each 2 x 2 pixels; NaN where one of them is NaN."""
        if not _values_alone(input):
            pooled: Tensor = super().forward(input)
            return pooled
        # A last row or column that has no partner is left out, as torch does.
        height = input.shape[-2] // 2 * 2
        width = input.shape[-1] // 2 * 2
        even = input[..., 0:height:2, :width]
        odd = input[..., 1:height:2, :width]
        rows = torch.maximum(even, odd)
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def _values_alone(input: Tensor) -> bool:
    """Return whether maxima are wanted without their places, and torch has no fast way to them: it
    has one for channels that lie side by side, for GPUs, and for what its compiler makes.
    """
    wants_gradient = torch.is_grad_enabled() and input.requires_grad
    return (
        not wants_gradient
        and input.is_cpu
        and input.is_contiguous()
        and min(input.shape[-2:]) > 1
        and not torch.compiler.is_compiling()
    )

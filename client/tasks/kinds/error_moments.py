"""What a regression's interval needs: the products, by twos, of all that it adds up of an example.

Of an example these are v = (1, and for each target its value, the value's square, the error's
square, the error's size). A Poisson bootstrap draws each example so often as a Poisson(1) number
says; what it adds up has the mean of the sum of v and the covariance of the sum of v v^T, whoever
holds the examples, and is normal where there are many. So this one sum over silos stands for all
replicates. Its first row is the sum of v.

    moments  float64  (1 + 4 targets, 1 + 4 targets)
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from client.tasks.base import SumSpec

MOMENTS: Final = "moments"
OF_A_TARGET: Final = 4
"""Numbers of a target in v: value, squared value, squared error, absolute error."""
MOST_TARGETS: Final = 8
"""Of more targets there is no such sum: it grows with their square."""


def moments(from_middle: Tensor, error: Tensor) -> Tensor:
    """Return the sum over examples of v v^T, of values (n, targets), from the middle of their
    ranges, and of errors (n, targets), both float64.
    """
    one = torch.ones_like(error[:, :1])
    of_targets = torch.stack(
        [from_middle, from_middle.square(), error.square(), error.abs()], dim=2
    )
    added = torch.cat([one, of_targets.flatten(1)], dim=1)
    return added.T @ added


def spec(targets: int) -> SumSpec:
    """Return the form of that sum; an error may be of any size."""
    width = 1 + OF_A_TARGET * targets
    return SumSpec((width, width), real=True, low=-math.inf, high=math.inf)


def sums_of(added: Tensor) -> dict[str, Tensor]:
    """Return a regression's own sums, by name, of a sum of v (1 + 4 targets)."""
    by_target = added[1:].reshape(-1, OF_A_TARGET)
    names = ("value", "squared_value", "squared_error", "absolute_error")
    sums = {name: by_target[:, place].clone() for place, name in enumerate(names)}
    return {"examples": added[0], **sums}

"""Numbers to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from client.tasks.base import Better, SumSpec, broken
from client.tasks.kinds import error_moments
from client.tasks.kinds.arrays import MADE_UP, ArrayTask
from conf.errors import DataError

TOO_ALIKE = 1e-10
"""Values that differ by less than 1e-5 of their distance from the middle have no R2 that float64
could tell.
"""


class Regression(ArrayTask):
    """The numbers that `contract.targets` names: squared error, RMSE, MAE and R2.

    A subclass sets `contract` and gives `read`: inputs (n, ...), and targets (n) or (n, targets). A
    model gives (n, targets). Each metric is the mean over the targets.
    """

    loss_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    shown: ClassVar[Mapping[str, Better]] = {
        "rmse": "min",
        "mae": "min",
        "r2": "max",
        "loss": "min",
    }
    ranges: ClassVar[tuple[tuple[float, float], ...]] = ()
    """Of each target, the lowest and highest value there can be, if known.

    Data outside is refused, and a silo's sums are held to it. R2 is exact to 1e-9 where the
    targets' mean is within 1,000 standard deviations of the middle (of 0 without a range).
    """

    def checked_targets(self, targets: NDArray[Any], where: object) -> NDArray[np.float32]:
        """Return the targets (n, targets) in float32; raises DataError MDW-202."""
        width = len(self.contract.targets)
        if targets.ndim == 1:
            targets = targets[:, None]
        if targets.ndim != 2 or targets.shape[1] != width or targets.dtype.kind not in "uif":
            raise broken(
                where,
                f"its targets are {targets.shape} of {targets.dtype}, not {width} numbers each",
            )
        if not np.isfinite(targets).all():
            raise broken(where, "its targets hold values that are not finite")
        low, high = self._limits()
        if (targets < low.numpy()).any() or (targets > high.numpy()).any():
            raise broken(where, f"its targets are not all in the task's ranges {self.ranges}")
        return targets.astype(np.float32)

    def made_up_targets(self) -> NDArray[np.float32]:
        """Return the middle of the targets' ranges."""
        return np.tile(self._middle().numpy().astype(np.float32), (MADE_UP, 1))

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean squared error over examples and targets.

        Raises DataError MDW-213 where the model's output is not (n, targets).
        """
        return functional.mse_loss(self._predicted(output, batch), batch[1])

    def example_losses(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean over targets of each example's squared error (n)."""
        each = functional.mse_loss(self._predicted(output, batch), batch[1], reduction="none")
        return each.mean(1)

    def sums(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Return the sums by target of errors and values, of the latter from the ranges' middle."""
        value = batch[1].double()
        error = self._predicted(output, batch).double() - value
        from_middle = value - self._middle().to(value.device)
        sums = {
            "examples": torch.tensor(len(value)),
            "squared_error": error.square().sum(0),
            "absolute_error": error.abs().sum(0),
            "value": from_middle.sum(0),
            "squared_value": from_middle.square().sum(0),
        }
        if self._tells_moments:
            sums[error_moments.MOMENTS] = error_moments.moments(from_middle, error)
        return sums

    def sum_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the sums; an error may be of any size."""
        width = len(self.contract.targets)
        # Values are held in float32, which may lie a little beyond the range's ends.
        ends = torch.stack(self._limits()).float().double()
        reach = float((ends - self._middle()).abs().max())
        specs = {
            "examples": SumSpec(),
            "squared_error": SumSpec((width,), real=True, high=math.inf),
            "absolute_error": SumSpec((width,), real=True, high=math.inf),
            "value": SumSpec((width,), real=True, low=-reach, high=reach),
            "squared_value": SumSpec((width,), real=True, high=reach**2),
        }
        if self._tells_moments:
            specs[error_moments.MOMENTS] = error_moments.spec(width)
        return specs

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Return root mean squared error, mean absolute error, and the share of the values' variance
        that is explained.

        As scikit-learn's `root_mean_squared_error`, `mean_absolute_error` and `r2_score`; R2 is
        undefined (NaN) where values do not vary.
        """
        count = float(sums["examples"])
        if count <= 0:
            return {"rmse": math.nan, "mae": math.nan, "r2": math.nan}
        squares = sums["squared_value"]
        spread = squares - sums["value"].square() / count
        r2 = 1 - sums["squared_error"] / spread
        r2[spread <= TOO_ALIKE * squares] = math.nan
        return {
            "rmse": float((sums["squared_error"] / count).sqrt().mean()),
            "mae": float((sums["absolute_error"] / count).mean()),
            "r2": float(r2.mean()),
        }

    def moments_of(self, sums: Mapping[str, Tensor]) -> Tensor | None:
        """Return the products of what is added up of an example; None of very many targets."""
        return sums.get(error_moments.MOMENTS)

    @property
    def _tells_moments(self) -> bool:
        return len(self.contract.targets) <= error_moments.MOST_TARGETS

    def _predicted(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the output as (n, targets): other shapes would be broadcast silently."""
        targets = batch[1]
        if output.shape == targets.shape:
            return output
        if output.shape == targets.shape[:1] and targets.shape[1] == 1:
            return output[:, None]
        raise DataError(
            "MDW-213",
            f"The task {self.name}: the model gives {tuple(output.shape)} for a batch, and the"
            f" targets are {tuple(targets.shape)}.",
            "Have the model give one number for each target of the contract.",
        )

    def _limits(self) -> tuple[Tensor, Tensor]:
        width = len(self.contract.targets)
        unlimited = ((-math.inf, math.inf),) * width
        low, high = torch.tensor(self.ranges or unlimited, dtype=torch.float64).T
        return low, high

    def _middle(self) -> Tensor:
        low, high = self._limits()
        if not self.ranges:
            return torch.zeros_like(low)
        return (low + high) / 2

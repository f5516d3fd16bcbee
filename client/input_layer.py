"""A model behind its task's input layer: what was read at a silo becomes what a model learns from.

What all silos know of their data before the first round, such as means and deviations, is in the
layer's buffers. They travel and are kept with the model, so that every silo scales by the same
numbers and a model file predicts on what was read by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class InputLayer(Protocol):
    """What a task's input layer says of itself; it is a `torch.nn.Module` besides."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of one example as the model behind this layer gets it."""

    def fit(self, sums: Mapping[str, Tensor]) -> None:
        """Take the task's statistics, summed over all silos, into the layer's buffers."""


class WithInputLayer(nn.Module):
    """A model behind an input layer."""

    def __init__(self, layer: Any, model: nn.Module) -> None:
        super().__init__()
        self.input = layer
        self.model = model

    def forward(self, examples: Tensor) -> Tensor:
        """Return what the model makes of examples as they were read."""
        made: Tensor = self.model(self.input(examples))
        return made

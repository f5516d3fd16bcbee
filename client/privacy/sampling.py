"""Which examples a step of DP-SGD sees: each with the same probability, whatever the others do.

The guarantee of the sampled Gaussian mechanism is one of Poisson sampling (Abadi et al. 2016, arXiv
1607.00133, section 3.1). A draw may hold no example, or many: it is cut into parts that fit into
memory. How many draws there are, at which rate, and what their sum is divided by is fixed before the
first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from client.batches import length
from client.trees import map_tensors


@dataclass(frozen=True)
class Plan:
    """The draws of one round, known before the first."""

    examples: int
    batch: int
    """How many examples a draw holds on average, which a step's sum is divided by."""
    steps: int

    @property
    def rate(self) -> float:
        """The probability with which a draw holds an example."""
        return self.batch / self.examples


def plan_of(examples: int, batch_size: int, epochs: int) -> Plan:
    """Return the draws of a round: as many as there would be batches, each of that size on average."""
    batch = min(batch_size, examples)
    return Plan(examples, batch, epochs * math.ceil(examples / batch))


class Draws:
    """Draws examples of a set and brings them to a device, some at a time."""

    def __init__(
        self,
        dataset: Dataset[Any],
        plan: Plan,
        at_once: int,
        device: torch.device,
        collate: Callable[[list[Any]], Any] | None,
        generator: torch.Generator,
    ) -> None:
        """`at_once` is how many examples are computed with together."""
        assert length(dataset) == plan.examples
        self._dataset = dataset
        self._plan = plan
        self._at_once = at_once
        self._device = device
        self._collate = collate
        self._generator = generator

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield the indices of each draw, in parts; a draw without examples has no part."""
        for _ in range(self._plan.steps):
            drawn = torch.rand(self._plan.examples, generator=self._generator) < self._plan.rate
            chosen = drawn.nonzero().flatten()
            parts = math.ceil(len(chosen) / self._at_once)
            yield list(torch.tensor_split(chosen, parts)) if parts else []

    def batch(self, indices: Tensor) -> Any:
        """Return the examples at some indices as the task's batch, on the device."""
        return map_tensors(lambda tensor: tensor.to(self._device), self._examples(indices))

    def _examples(self, indices: Tensor) -> Any:
        if isinstance(self._dataset, TensorDataset) and self._collate is None:
            return tuple(tensor.index_select(0, indices) for tensor in self._dataset.tensors)
        examples = [self._dataset[index] for index in indices.tolist()]
        return (self._collate or default_collate)(examples)

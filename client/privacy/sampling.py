"""What a step of DP-SGD sees: each unit with the same probability, whatever the others do.

The guarantee of the sampled Gaussian mechanism is one of Poisson sampling (Abadi et al. 2016, arXiv
1607.00133, section 3.1). A unit is an example, or a group of examples (`client.privacy.privacy_unit`), of
which some are drawn in turn. A draw may hold no unit, or many: it is cut into parts that fit into
memory, each of whole units. How many draws there are, at which rate, and what their sum is divided by
is fixed before the first one.
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
from client.groups import members
from client.partition import Indices
from client.trees import map_tensors


@dataclass(frozen=True)
class Plan:
    """The draws of one round, known before the first."""

    units: int
    """How many there are to be drawn."""
    batch: int
    """How many units a draw holds on average, which a step's sum is divided by."""
    steps: int

    @property
    def rate(self) -> float:
        """The probability with which a draw holds a unit."""
        return self.batch / self.units


def plan_of(units: int, batch_size: int, epochs: int) -> Plan:
    """Return the draws of a round: as many as there would be batches, each of that size on average."""
    batch = min(batch_size, units)
    return Plan(units, batch, epochs * math.ceil(units / batch))


@dataclass(frozen=True)
class Part:
    """Examples of a draw that are computed with together: whole units."""

    examples: Tensor
    """Their places in the set."""
    unit: Tensor | None = None
    """Which of the part's units each is of, from 0 without gaps; None where each is one by itself."""

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.examples) if self.unit is None else int(self.unit.max()) + 1


class Draws:
    """Draws units of a set and brings their examples to a device, some at a time."""

    def __init__(
        self,
        dataset: Dataset[Any],
        plan: Plan,
        at_once: int,
        device: torch.device,
        collate: Callable[[list[Any]], Any] | None,
        generator: torch.Generator,
        groups: Indices | None = None,
        of_group: int = 1,
    ) -> None:
        """`at_once` is how many examples are computed with together. With the group of each example
        (`groups`) these are the units, of which a draw holds at most `of_group` examples each.
        """
        self._members = None
        if groups is not None:
            assert len(groups) == length(dataset) and of_group <= at_once
            self._members = [torch.from_numpy(group) for group in members(groups)]
        units = length(dataset) if self._members is None else len(self._members)
        assert units == plan.units
        self._dataset = dataset
        self._plan = plan
        self._at_once = at_once
        self._of_group = of_group
        self._device = device
        self._collate = collate
        self._generator = generator

    def __iter__(self) -> Iterator[list[Part]]:
        """Yield the examples of each draw, in parts; a draw without units has no part."""
        for _ in range(self._plan.steps):
            drawn = torch.rand(self._plan.units, generator=self._generator) < self._plan.rate
            chosen = drawn.nonzero().flatten()
            yield self._of_examples(chosen) if self._members is None else self._of_groups(chosen)

    def batch(self, indices: Tensor) -> Any:
        """Return the examples at some indices as the task's batch, on the device."""
        return map_tensors(lambda tensor: tensor.to(self._device), self._examples(indices))

    def _of_examples(self, chosen: Tensor) -> list[Part]:
        parts = math.ceil(len(chosen) / self._at_once)
        return [Part(part) for part in torch.tensor_split(chosen, parts)] if parts else []

    def _of_groups(self, chosen: Tensor) -> list[Part]:
        """Return the chosen groups in parts, with some examples of each."""
        parts: list[list[Tensor]] = []
        room = 0
        for number in chosen.tolist():
            examples = self._some_of(number)
            if len(examples) > room:
                parts.append([])
                room = self._at_once
            parts[-1].append(examples)
            room -= len(examples)
        return [_joined(part) for part in parts]

    def _some_of(self, number: int) -> Tensor:
        """Return at most so many examples of a group as a draw may hold, others each time."""
        assert self._members is not None
        all_of_it = self._members[number]
        if len(all_of_it) <= self._of_group:
            return all_of_it
        order = torch.randperm(len(all_of_it), generator=self._generator)
        return all_of_it[order[: self._of_group]]

    def _examples(self, indices: Tensor) -> Any:
        if isinstance(self._dataset, TensorDataset) and self._collate is None:
            return tuple(tensor.index_select(0, indices) for tensor in self._dataset.tensors)
        examples = [self._dataset[index] for index in indices.tolist()]
        return (self._collate or default_collate)(examples)


def _joined(groups: list[Tensor]) -> Part:
    sizes = torch.tensor([len(group) for group in groups])
    unit = torch.repeat_interleave(torch.arange(len(groups)), sizes)
    return Part(torch.cat(groups), unit)

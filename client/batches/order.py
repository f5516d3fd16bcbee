"""Which examples each batch of an epoch has, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from client.randomness import mixed


class Order:
    """The indices of each batch; drawn anew at each pass from a seed, or without one that of the set.

    With `pairs` a last batch of one example joins the one before it.
    """

    def __init__(
        self, examples: int, size: int, seed: int | None = None, pairs: bool = False
    ) -> None:
        self._examples = examples
        self._seed = seed or 0
        self._passes = 0
        self._draws = None if seed is None else torch.Generator().manual_seed(seed)
        whole, rest = divmod(examples, size)
        self.sizes = [size] * whole + [rest] * bool(rest)
        """How many examples each batch has."""
        if pairs and rest == 1 and examples > size > 1:
            self.sizes[-2:] = [size + 1]

    def __len__(self) -> int:
        return len(self.sizes)

    def drawn(self) -> Tensor:
        """Return the indices of the next pass, all batches in a row."""
        self._passes += 1
        if self._draws is None:
            return torch.arange(self._examples)
        return torch.randperm(self._examples, generator=self._draws)

    def __iter__(self) -> Iterator[Tensor]:
        drawn = self.drawn()
        if self._examples:
            yield from drawn.split(self.sizes)

    @property
    def pass_seed(self) -> int:
        """The seed of what is drawn anew of each example in the pass that was drawn last."""
        return mixed(self._seed, self._passes)

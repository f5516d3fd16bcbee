"""A set in memory in the type in which it is stored, scaled where it is used.

Bytes are a quarter of floats: four times as many examples stay on a GPU, and a copy there takes a
quarter of the time. On the CPU a set is scaled once, and the bytes go.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import TensorDataset


class StoredSet(TensorDataset):
    """Inputs as stored, and what belongs to them; whoever asks for `tensors` gets scaled ones."""

    def __init__(self, inputs: Tensor, *others: Tensor, scaled: Callable[[Tensor], Tensor]) -> None:
        # Not the parent's: it would ask for the scaled ones.
        self._stored: tuple[Tensor, ...] | None = (inputs, *others)
        self._made: tuple[Tensor, ...] | None = None
        self._stays = False
        self._scaled = scaled
        self._examples = len(inputs)

    def __len__(self) -> int:
        return self._examples

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]  # the parent's is an attribute
        """The tensors as a model gets them: the inputs scaled, in float32."""
        if self._made is None:
            assert self._stored is not None  # until they are made
            inputs, *others = self._stored
            self._made = (self.scaled(inputs), *others)
            if not self._stays:
                self._stored = None
        return self._made

    @property
    def stored(self) -> tuple[Tensor, ...] | None:
        """The tensors as they are stored; None where they are there as scaled ones alone. From now
        on they stay.
        """
        self._stays = self._stored is not None
        return self._stored

    def scaled(self, inputs: Tensor) -> Tensor:
        """Return stored inputs as a model gets them, on whatever device they are."""
        # A copy in any case: the task may scale in place.
        return self._scaled(inputs.to(torch.float32, copy=True))

    def first(self, count: int) -> TensorDataset:
        """Return the first examples as a set of their own."""
        if self._stored is None:
            return TensorDataset(*(tensor[:count] for tensor in self.tensors))
        return StoredSet(*(tensor[:count] for tensor in self._stored), scaled=self._scaled)


def as_stored(dataset: TensorDataset) -> tuple[Tensor, ...]:
    """Return a set's tensors as they take the least memory."""
    stored = dataset.stored if isinstance(dataset, StoredSet) else None
    return dataset.tensors if stored is None else stored


def as_used(dataset: TensorDataset, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what a model gets of a batch of `as_stored`."""
    if not isinstance(dataset, StoredSet) or dataset.stored is None:
        return batch
    return (dataset.scaled(batch[0]), *batch[1:])

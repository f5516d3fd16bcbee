"""Batches of a set of examples on the device that computes, in an order drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from client.batches.ahead import copied_ahead
from client.batches.gathered import InMemory
from client.batches.loaded import Loaded
from client.batches.order import Order
from client.trees import map_tensors
from conf.schema import TrainerConf

Batch = Any
"""What a task's `collate` gives, on the device: a tree of tensors (`client.trees`).

Of a `TensorDataset` it is the tuple of its tensors.
"""
Collate = Callable[[list[Any]], Any]
"""Makes a batch of a list of examples."""


class Batches:
    """The batches of one epoch after another.

    Sets in memory (`TensorDataset`) are indexed a batch at a time, on the GPU itself when they fit
    there; others, and those with a `collate` of their own, come through a DataLoader. Shuffled by
    `seed`, or in the order of the set without one. With `pairs` a last batch of one example joins
    the one before it: BatchNorm can't train on one.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        size: int,
        device: torch.device,
        conf: TrainerConf,
        *,
        seed: int | None = None,
        pairs: bool = False,
        collate: Collate | None = None,
    ) -> None:
        self.examples = length(dataset)
        self._device = device
        self._channels_last = conf.channels_last
        self._order = Order(self.examples, size, seed, pairs)
        self._source: Iterable[Batch]
        if isinstance(dataset, TensorDataset) and collate is None:
            self._source = InMemory(dataset, self._order, device, keep=conf.keep_on_device)
        else:
            workers = conf.loader_workers
            pin = device.type == "cuda"
            loaded = Loaded(dataset, self._order, collate, workers=workers, pin=pin)
            self._source = _OnDevice(loaded, device)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def sizes(self) -> list[int]:
        """How many examples each batch of an epoch has."""
        return self._order.sizes

    @property
    def odd_last(self) -> bool:
        """Whether the last batch of an epoch has another size than those before it."""
        sizes = self.sizes
        return len(sizes) > 1 and sizes[-1] != sizes[0]

    def try_first(self, use: Callable[[Batch], object]) -> None:
        """Use the first batch of a pass; what is left of the pass is given up."""
        batches = iter(self)
        for batch in batches:
            use(batch)
            break

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._source:
            yield map_tensors(self._placed, batch)

    def _placed(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self._device)
        if self._channels_last and tensor.dim() == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


class _OnDevice:
    """Batches of the host, on a GPU one ahead; any other device takes each as it comes."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._batches = batches
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        if self._device.type == "cuda":
            return copied_ahead(self._batches, self._device)
        return iter(self._batches)


def length(dataset: Dataset[Any]) -> int:
    """Return the number of examples in a set."""
    return len(cast(Sized, dataset))

"""Batches of a set of examples on the device that computes, in an order drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from conf.schema import TrainerConf

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of a batch, on the device."""

SHARE_OF_FREE_MEMORY = 0.25
"""A set stays on the GPU when it takes no more than this of what is free there."""

_resident: WeakKeyDictionary[Dataset[Any], tuple[torch.device, tuple[Tensor, ...]]] = (
    WeakKeyDictionary()
)


class Batches:
    """The batches of one epoch after another.

    Sets in memory (`TensorDataset`) are indexed a batch at a time, on the GPU itself when they fit there; others
    come through a DataLoader. Shuffled by `seed`, or in the order of the set without one. With `pairs` a last
    batch of one example joins the one before it: BatchNorm can't train on one.
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
    ) -> None:
        self.examples, self._dataset, self._device, self._conf = (
            length(dataset),
            dataset,
            device,
            conf,
        )
        self._order, self._seed = _Order(self.examples, size, seed, pairs), seed or 0
        self._source = (
            self._tensors(dataset) if isinstance(dataset, TensorDataset) else self._loader(dataset)
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        channels_last = self._conf.channels_last
        for batch in self._source:
            x, y = (t.to(self._device, non_blocking=True) for t in batch)
            yield (
                (
                    x.contiguous(memory_format=torch.channels_last)
                    if channels_last and x.dim() == 4
                    else x
                ),
                y,
            )

    def _tensors(self, dataset: TensorDataset) -> Iterable[Batch]:
        tensors = on_device(dataset, self._device) if self._conf.keep_on_device else dataset.tensors
        return _Indexed(
            cast(Batch, tensors), self._order, pin=self._pin and tensors[0].device.type == "cpu"
        )

    def _loader(self, dataset: Dataset[Any]) -> Iterable[Batch]:
        workers = self._conf.loader_workers
        return DataLoader(
            dataset,
            batch_sampler=cast("Sampler[list[int]]", _Lists(self._order)),
            num_workers=workers,
            pin_memory=self._pin,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(
                self._seed
            ),  # of its workers; the order is drawn elsewhere
        )

    @property
    def _pin(self) -> bool:
        return self._device.type == "cuda"


def length(dataset: Dataset[Any]) -> int:
    """Return the number of examples in a set."""
    return len(cast(Sized, dataset))


def on_device(dataset: TensorDataset, device: torch.device) -> tuple[Tensor, ...]:
    """Return a set's tensors, on the device if it is a GPU with room for them; they stay there between rounds."""
    if device.type != "cuda":
        return dataset.tensors
    known = _resident.get(dataset)
    if known is None or known[0] != device:
        if (
            sum(t.nbytes for t in dataset.tensors)
            > SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
        ):
            return dataset.tensors
        known = _resident[dataset] = device, tuple(t.to(device) for t in dataset.tensors)
    return known[1]


class _Order:
    """The indices of each batch; drawn anew at each pass."""

    def __init__(self, examples: int, size: int, seed: int | None, pairs: bool) -> None:
        self._examples, self._size = examples, size
        self._draws = None if seed is None else torch.Generator().manual_seed(seed)
        self._join = pairs and size > 1 and examples > size and examples % size == 1

    def __len__(self) -> int:
        return math.ceil(self._examples / self._size) - self._join

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self._examples)
        if self._draws is not None:
            order = torch.randperm(self._examples, generator=self._draws)
        batches = list(torch.split(order, self._size))
        if self._join:
            batches[-2:] = [torch.cat(batches[-2:])]
        yield from batches


class _Lists:
    """An order as a DataLoader takes it."""

    def __init__(self, order: _Order) -> None:
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._order:
            yield batch.tolist()


class _Indexed:
    """Batches of tensors in memory; pinned, so that the copy to a GPU runs beside the computing."""

    def __init__(self, tensors: Batch, order: _Order, pin: bool) -> None:
        self._tensors, self._order, self._pin = tensors, order, pin

    def __iter__(self) -> Iterator[Batch]:
        x, y = self._tensors
        for batch in self._order:
            which = batch.to(x.device, non_blocking=True)
            chosen = (
                x.index_select(0, which),
                y.index_select(0, which),
            )  # x[which] takes up to nine times as long
            yield (chosen[0].pin_memory(), chosen[1].pin_memory()) if self._pin else chosen

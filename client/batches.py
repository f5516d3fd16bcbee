"""Batches of a set of examples on the device that computes, in an order drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from client.trees import map_tensors
from conf.schema import TrainerConf

Batch = Any
"""What a task's `collate` gives, on the device: a tree of tensors (`client.trees`).

Of a `TensorDataset` it is the tuple of its tensors.
"""
Collate = Callable[[list[Any]], Any]
"""Makes a batch of a list of examples."""

SHARE_OF_FREE_MEMORY = 0.25
"""A set stays on the GPU when it takes no more than this of what is free there."""

_resident: WeakKeyDictionary[Dataset[Any], tuple[torch.device, tuple[Tensor, ...]]] = (
    WeakKeyDictionary()
)


class Batches:
    """The batches of one epoch after another.

    Sets in memory (`TensorDataset`) are indexed a batch at a time, on the GPU itself when they fit
    there; others, and those with a `collate` of their own, come through a DataLoader. Shuffled by
    `seed`, or in the order of the set without
    one. With `pairs` a last batch of one example joins the one before it: BatchNorm can't train on
    one.
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
        self._conf = conf
        self._seed = seed or 0
        self._order = _Order(self.examples, size, seed, pairs)
        if isinstance(dataset, TensorDataset) and collate is None:
            self._source = self._indexed(dataset)
        else:
            self._source = self._loaded(dataset, collate)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._source:
            yield map_tensors(self._placed, batch)

    def _placed(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self._device, non_blocking=True)
        if self._conf.channels_last and tensor.dim() == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _indexed(self, dataset: TensorDataset) -> Iterable[Batch]:
        tensors = dataset.tensors
        if self._conf.keep_on_device:
            tensors = on_device(dataset, self._device)
        in_host_memory = tensors[0].device.type == "cpu"
        return _Indexed(tensors, self._order, pin=self._pin and in_host_memory)

    def _loaded(self, dataset: Dataset[Any], collate: Collate | None) -> Iterable[Batch]:
        workers = self._conf.loader_workers
        return DataLoader(
            dataset,
            batch_sampler=cast("Sampler[list[int]]", _Lists(self._order)),
            collate_fn=collate,
            num_workers=workers,
            pin_memory=self._pin,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            # Of the loader's workers; the order is drawn by `_Order`.
            generator=torch.Generator().manual_seed(self._seed),
        )

    @property
    def _pin(self) -> bool:
        return self._device.type == "cuda"


def length(dataset: Dataset[Any]) -> int:
    """Return the number of examples in a set."""
    return len(cast(Sized, dataset))


def on_device(dataset: TensorDataset, device: torch.device) -> tuple[Tensor, ...]:
    """Return a set's tensors, on the device if it is a GPU with room for them.

    They stay there between rounds.
    """
    if device.type != "cuda":
        return dataset.tensors
    resident = _resident.get(dataset)
    if resident is not None and resident[0] == device:
        return resident[1]
    needed = sum(t.nbytes for t in dataset.tensors)
    free, _ = torch.cuda.mem_get_info(device)
    if needed > SHARE_OF_FREE_MEMORY * free:
        return dataset.tensors
    copies = tuple(t.to(device) for t in dataset.tensors)
    _resident[dataset] = (device, copies)
    return copies


class _Order:
    """The indices of each batch; drawn anew at each pass."""

    def __init__(self, examples: int, size: int, seed: int | None, pairs: bool) -> None:
        self._examples = examples
        self._size = size
        self._draws = None if seed is None else torch.Generator().manual_seed(seed)
        one_is_left = examples % size == 1 and examples > size > 1
        self._join_last_two = pairs and one_is_left

    def __len__(self) -> int:
        batches = math.ceil(self._examples / self._size)
        return batches - 1 if self._join_last_two else batches

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self._examples)
        if self._draws is not None:
            order = torch.randperm(self._examples, generator=self._draws)
        batches = list(torch.split(order, self._size))
        if self._join_last_two:
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

    def __init__(self, tensors: tuple[Tensor, ...], order: _Order, pin: bool) -> None:
        self._tensors = tensors
        self._order = order
        self._pin = pin

    def __iter__(self) -> Iterator[Batch]:
        device = self._tensors[0].device
        for batch in self._order:
            indices = batch.to(device, non_blocking=True)
            # tensor[indices] takes up to nine times as long.
            chosen = [tensor.index_select(0, indices) for tensor in self._tensors]
            if self._pin:
                chosen = [tensor.pin_memory() for tensor in chosen]
            yield tuple(chosen)

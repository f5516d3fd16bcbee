"""Batches of sets whose tensors are in memory: chosen on the device where they are resident, else
gathered on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from client.batches.ahead import copied_ahead
from client.batches.order import Order
from client.batches.resident import residents
from client.batches.stored import as_stored, as_used
from client.device_failures import with_room

Columns = tuple[Tensor, ...]


class InMemory:
    """One pass after another over a `TensorDataset`."""

    def __init__(
        self, dataset: TensorDataset, order: Order, device: torch.device, *, keep: bool
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._device = device
        if keep:
            residents.offer(dataset, device)

    def __iter__(self) -> Iterator[Columns]:
        if self._device.type != "cuda" and not self._there():
            for part in self._order:
                yield chosen(self._dataset.tensors, part)
            return
        for batch in self._of_gpu():
            yield as_used(self._dataset, batch)

    def _of_gpu(self) -> Iterator[Columns]:
        """Yield the batches on the device, as they are stored."""
        indices = self._order.drawn()
        sizes = self._order.sizes
        done = 0
        if self._there():
            # Once for the whole pass, and not for each batch.
            for part in _sent(indices, self._device).split(sizes):
                batch = self._resident(part)
                if batch is None:
                    break
                done += 1
                yield batch
                # It must not stay while the next one is made.
                del batch
        parts = indices.split(sizes)[done:]
        gathered = gathered_ahead(as_stored(self._dataset), parts, self._device)
        ahead = self._device.type == "cuda"
        yield from copied_ahead(gathered, self._device) if ahead else gathered

    def _there(self) -> bool:
        return residents.copies(self._dataset, self._device) is not None

    def _resident(self, part: Tensor) -> Columns | None:
        """Return a batch of the copies on the device; None where these had to leave it."""

        def choose() -> Columns | None:
            copies = residents.copies(self._dataset, self._device)
            return None if copies is None else chosen(copies, part)

        return with_room(self._device, choose)


def chosen(tensors: Columns, part: Tensor) -> Columns:
    """Return some rows of each tensor."""
    # tensor[indices] takes up to nine times as long.
    return tuple(tensor.index_select(0, part) for tensor in tensors)


def _sent(indices: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        indices = indices.pin_memory()
    return indices.to(device, non_blocking=True)


def gathered_ahead(
    tensors: Columns, parts: Sequence[Tensor], device: torch.device
) -> Iterator[Columns]:
    """Yield the batches in pinned memory, each gathered by a thread while the one before is used.

    torch keeps pinned memory for the next batch when the copy of this one is done, so a pass takes
    that of three batches.
    """

    def ready() -> None:
        if device.type == "cuda":
            # The device of a new thread is the first one, which would get a context of its own.
            torch.cuda.set_device(device)

    def gather(part: Tensor) -> Columns:
        pin = device.type == "cuda"
        batch = []
        for tensor in tensors:
            shape = (len(part), *tensor.shape[1:])
            rows = torch.empty(shape, dtype=tensor.dtype, pin_memory=pin)
            batch.append(torch.index_select(tensor, 0, part, out=rows))
        return tuple(batch)

    with ThreadPoolExecutor(1, "meadow batches", ready) as thread:
        ahead = [thread.submit(gather, part) for part in parts[:1]]
        for part in parts[1:]:
            ahead.append(thread.submit(gather, part))
            yield ahead.pop(0).result()
        for last in ahead:
            yield last.result()

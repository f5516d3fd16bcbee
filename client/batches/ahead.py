"""Copies of batches to a GPU that run beside the computing, one batch ahead of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from client.device_failures import with_room
from client.trees import map_tensors


def copied_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield batches (trees of tensors) on the device, each copied while the one before is used.

    A copy is free to overlap where the batches are in pinned memory; torch keeps that memory until
    its copy is done.
    """
    pending: tuple[Any, torch.cuda.Event] | None = None
    try:
        for batch in batches:
            begun = with_room(device, partial(_begun, batch, device))
            if pending is not None:
                yield _arrived(pending, device)
            pending = begun
        if pending is not None:
            last = pending
            pending = None
            yield _arrived(last, device)
    finally:
        if pending is not None:
            # Given up on the way: its memory goes back to those who compute, and not before.
            _arrived(pending, device)


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _begun(batch: Any, device: torch.device) -> tuple[Any, torch.cuda.Event]:
    """Begin to copy a batch; return it with the event that tells that it is there."""
    copying = _copying(device)
    # The memory is that of the computing, which may still read what lay there before.
    copying.wait_stream(torch.cuda.current_stream(device))

    def copy(tensor: Tensor) -> Tensor:
        there = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        with torch.cuda.stream(copying):
            return there.copy_(tensor, non_blocking=True)

    copied = map_tensors(copy, batch)
    return copied, copying.record_event()


def _arrived(begun: tuple[Any, torch.cuda.Event], device: torch.device) -> Any:
    """Return a batch that the computing waits for, and not the host."""
    batch, there = begun
    torch.cuda.current_stream(device).wait_event(there)
    return batch

"""Many arrays between a GPU and the host in one piece of pinned memory: one wait for all of them.

Array by array each copy waits for the one before, and goes through memory that the GPU can't reach
by itself. On the CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

ALIGNED: Final = 64
"""Bytes to whose multiples each array is moved: enough for every type of element."""

_pinned: list[Tensor] = []
"""The piece of this process, as long as it is long enough."""


def to_device(arrays: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return arrays of the host on a device; those of a GPU are parts of one array there."""
    if device.type != "cuda" or not arrays:
        return {name: array.to(device) for name, array in arrays.items()}
    places, total = _places(arrays)
    piece = _piece(total)
    for name, array in arrays.items():
        _part(piece, places[name], array).copy_(array)
    there = piece[:total].to(device, non_blocking=True)
    # The piece is written again by whoever copies next.
    torch.cuda.current_stream(device).synchronize()
    return {name: _part(there, places[name], array) for name, array in arrays.items()}


def to_host(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return arrays on the host, to be used before the next copy of this module: those of a GPU are
    parts of a piece of memory that is used again.
    """
    arrays = {name: array.detach() for name, array in arrays.items()}
    devices = {array.device for array in arrays.values() if array.is_cuda}
    if len(devices) != 1:
        return {name: array.cpu() for name, array in arrays.items()}
    places, total = _places(arrays)
    piece = _piece(total)
    found = {}
    for name, array in arrays.items():
        found[name] = _part(piece, places[name], array)
        found[name].copy_(array, non_blocking=True)
    torch.cuda.current_stream(devices.pop()).synchronize()
    return found


def _places(arrays: Mapping[str, Tensor]) -> tuple[dict[str, int], int]:
    """Return where each array begins, in bytes, and how long all are together."""
    places = {}
    end = 0
    for name, array in arrays.items():
        places[name] = end
        end += -(-array.numel() * array.element_size() // ALIGNED) * ALIGNED
    return places, end


def _part(piece: Tensor, place: int, like: Tensor) -> Tensor:
    """Return the bytes at a place as an array of the type and shape of another."""
    length = like.numel() * like.element_size()
    return piece[place : place + length].view(like.dtype).view(like.shape)


def _piece(length: int) -> Tensor:
    if not _pinned or _pinned[0].numel() < length:
        # The old one goes first: pinned memory is what the host can't move away.
        _pinned.clear()
        _pinned.append(torch.empty(length, dtype=torch.uint8, pin_memory=_can_pin()))
    return _pinned[0]


def _can_pin() -> bool:
    return torch.cuda.is_available()

"""Sets of examples that stay on a GPU between rounds, within one budget a process.

How much memory training takes is seen when it has trained: until then only small sets go there.
Where memory runs out all of them leave, and none comes back.
"""

from __future__ import annotations

import logging
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from client import placement
from client.batches.stored import as_stored
from client.device_failures import is_full, on_full_memory

log = logging.getLogger(__name__)

SHARE: Final = 0.25
"""The part of a GPU's memory that is free of others which all sets together may take: those of all
processes that were given the same GPU.
"""
SHARE_AT_FIRST: Final = 0.05
"""The same before it is known what training takes."""

Copies = tuple[Tensor, ...]


class Residents:
    """The sets on the devices of one process."""

    def __init__(self) -> None:
        self._copies: WeakKeyDictionary[Dataset[Any], dict[torch.device, Copies]] = (
            WeakKeyDictionary()
        )
        self._need: dict[torch.device, int] = {}
        self._crowded: set[torch.device] = set()

    def copies(self, dataset: TensorDataset, device: torch.device) -> Copies | None:
        """Return a set's tensors on the device, or None where they are not there."""
        return self._copies.get(dataset, {}).get(device)

    def offer(self, dataset: TensorDataset, device: torch.device) -> None:
        """Copy a set to the device if it is a GPU with room for it; nothing where it is there."""
        if device.type != "cuda" or device in self._crowded or self.copies(dataset, device):
            return
        tensors = as_stored(dataset)
        needed = sum(tensor.nbytes for tensor in tensors)
        if needed > self._room(device):
            return
        try:
            copies = tuple(tensor.to(device) for tensor in tensors)
        except RuntimeError as error:
            if not is_full(error):
                raise
            # Another process has looked at the same memory in the same moment.
            self._crowded.add(device)
            return
        self._copies.setdefault(dataset, {})[device] = copies

    def measure(self, device: torch.device) -> None:
        """Note what training takes of the device, after a round of it."""
        if device.type == "cuda":
            took = torch.cuda.max_memory_reserved(device) - self.bytes_on(device)
            self._need[device] = max(took, 0)

    def leave(self, device: torch.device) -> None:
        """Have all sets leave a device whose memory is full; none will come back."""
        if any(device in on for on in self._copies.values()):
            log.warning("the memory of %s is full: sets of examples are kept on the host", device)
        self._crowded.add(device)
        for on in self._copies.values():
            on.pop(device, None)

    def bytes_on(self, device: torch.device) -> int:
        """Return what the sets on a device take."""
        kept = (on.get(device, ()) for on in self._copies.values())
        return sum(tensor.nbytes for copies in kept for tensor in copies)

    def _room(self, device: torch.device) -> float:
        """Return how many bytes another set may take."""
        free, _ = torch.cuda.mem_get_info(device)
        held = self.bytes_on(device)
        need = self._need.get(device)
        # Those that share the GPU look at the same free memory, and want as much as this one.
        sharers = _sharers(device)
        if need is None:
            return SHARE_AT_FIRST * (free + held) / sharers - held
        # What torch has in reserve is training's own already.
        to_come = max(need - (torch.cuda.memory_reserved(device) - held), 0)
        return min(SHARE * (free + held) / sharers - held, free - to_come * sharers)


def _sharers(device: torch.device) -> int:
    """Return how many processes use a device, this one among them."""
    place = placement.given()
    return place.sharers if place is not None and place.gpu == (device.index or 0) else 1


residents: Final = Residents()
"""Those of this process."""
on_full_memory(residents.leave)

"""What a step has changed before it was done, put back so that it can be taken again.

The same draws and the same running means: a step that is taken twice leaves the bits of one that
was taken once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Undo:
    """The random state of a device, and a model's buffers, as they were when last marked.

    Python's and numpy's generators are left alone: what draws from them makes the batches, and
    these are there already.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        # Asked itself: the public function looks for the device's library each time.
        cuda = device.type == "cuda"
        self._generator = torch.cuda.default_generators[device.index or 0] if cuda else None
        buffers = list(model.buffers())
        self._pairs = [(buffer.clone(), buffer) for buffer in buffers]
        # torch's normalisations move their running means without saying so in the version.
        means = {id(b) for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers()}
        self._means = _by_type([pair for pair in self._pairs if id(pair[1]) in means])
        self._others = [pair for pair in self._pairs if id(pair[1]) not in means]
        self._versions = [buffer._version for _, buffer in self._others]
        self._of_host: Tensor | None = None
        self._of_device: Tensor | None = None

    def mark(self) -> None:
        """Remember how all is now."""
        self._of_host = torch.default_generator.get_state()
        if self._generator is not None:
            self._of_device = self._generator.get_state()
        if not self._pairs:
            return
        # Running means at each step; tables that never change are copied once.
        with torch.no_grad():
            for kept, buffers in self._means:
                torch._foreach_copy_(kept, buffers)
            for number, (copy, buffer) in enumerate(self._others):
                if buffer._version != self._versions[number]:
                    copy.copy_(buffer)
                    self._versions[number] = buffer._version

    def back(self) -> None:
        """Put all back to where it was when it was marked."""
        assert self._of_host is not None  # marked before
        torch.default_generator.set_state(self._of_host)
        if self._generator is not None and self._of_device is not None:
            self._generator.set_state(self._of_device)
        with torch.no_grad():
            for kept, buffer in self._pairs:
                buffer.copy_(kept)
        self._versions = [buffer._version for _, buffer in self._others]


Pair = tuple[Tensor, Tensor]


def _by_type(pairs: list[Pair]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return copies and buffers in lists of one type each: one launch on a GPU for each list."""
    kinds: dict[torch.dtype, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(pair[1].dtype, []).append(pair)
    return [([a for a, _ in alike], [b for _, b in alike]) for alike in kinds.values()]

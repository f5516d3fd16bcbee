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
        self._device = device
        self._buffers = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._versions = [buffer._version for buffer in self._buffers]
        # torch's normalisations move their running means without saying so in the version.
        means = {id(b) for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers()}
        self._always = [id(buffer) in means for buffer in self._buffers]
        self._of_host: Tensor | None = None
        self._of_device: Tensor | None = None

    def mark(self) -> None:
        """Remember how all is now."""
        self._of_host = torch.default_generator.get_state()
        if self._device.type == "cuda":
            self._of_device = torch.cuda.get_rng_state(self._device)
        if not self._buffers:
            return
        # Tables that never change are copied once, running means at each step.
        versions = [buffer._version for buffer in self._buffers]
        compared = zip(self._always, versions, self._versions, strict=True)
        self._copy(self._kept, self._buffers, [always or a != b for always, a, b in compared])
        self._versions = versions

    def back(self) -> None:
        """Put all back to where it was when it was marked."""
        assert self._of_host is not None  # marked before
        torch.default_generator.set_state(self._of_host)
        if self._of_device is not None:
            torch.cuda.set_rng_state(self._of_device, self._device)
        self._copy(self._buffers, self._kept, [True] * len(self._kept))
        self._versions = [buffer._version for buffer in self._buffers]

    @staticmethod
    def _copy(to: list[Tensor], of: list[Tensor], which: list[bool]) -> None:
        pairs = [
            pair for pair, wanted in zip(zip(to, of, strict=True), which, strict=True) if wanted
        ]
        if pairs:
            with torch.no_grad():
                torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])

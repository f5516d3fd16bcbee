"""What a step has changed before it was done, put back so that it can be taken again.

The same draws and the same running means: a step that is taken twice leaves the bits of one that
was taken once.
"""

from __future__ import annotations

from itertools import groupby

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
        # Those of one type go together, in one launch on a GPU.
        self._buffers = sorted(model.buffers(), key=lambda buffer: str(buffer.dtype))
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
        if self._generator is not None:
            self._of_device = self._generator.get_state()
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
        if self._generator is not None and self._of_device is not None:
            self._generator.set_state(self._of_device)
        self._copy(self._buffers, self._kept, [True] * len(self._kept))
        self._versions = [buffer._version for buffer in self._buffers]

    @staticmethod
    def _copy(to: list[Tensor], of: list[Tensor], which: list[bool]) -> None:
        chosen = zip(to, of, which, strict=True)
        pairs = [(a, b) for a, b, wanted in chosen if wanted]
        with torch.no_grad():
            for _, alike in groupby(pairs, key=lambda pair: pair[0].dtype):
                copies, values = map(list, zip(*alike, strict=True))
                torch._foreach_copy_(copies, values)

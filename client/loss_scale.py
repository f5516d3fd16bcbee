"""The scale of fp16's loss, kept for a silo from round to round.

Gradients of fp16 vanish below 6e-8 and overflow above 65,504, so the loss is multiplied by a scale
and the gradients divided by it again (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2). The
right scale depends on model and data and is found by trying. torch's own scaler begins at 65,536
and leaves a step out where it overflows; a round may have three steps. So here the scale is the one
that the silo's last round ended with, and a step that overflows is taken again with half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.optim import Optimizer

SCALE: Final = "scale"
GOOD_STEPS: Final = "good-steps"
"""Names of the arrays that are kept: the scale, and how many steps it has held."""

SMALLEST: Final = 1.0
"""A gradient that overflows at this scale overflows by itself."""
_FIRST: Final = 65536.0
_LARGEST: Final = 2.0**24


def growth_interval(steps: int) -> int:
    """Return after how many good steps a larger scale is tried, in rounds of `steps` steps.

    Every tenth round, so that a try costs a step of a hundred in short rounds, and at most torch's
    own 2,000.
    """
    return max(50, min(2000, 10 * steps))


class LossScale:
    """What scales losses and unscales gradients; does nothing where it is not `enabled`."""

    def __init__(
        self,
        device: torch.device,
        *,
        enabled: bool,
        steps: int = 1,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.enabled = enabled
        self._device = device
        self._interval = growth_interval(steps)
        if not enabled:
            return
        kept = kept or {}
        self._good = int(kept[GOOD_STEPS]) if GOOD_STEPS in kept else 0
        first = float(kept[SCALE]) if SCALE in kept else _FIRST
        self._scaler = self._made(min(max(first, SMALLEST), _LARGEST))

    def _made(self, scale: float) -> torch.amp.GradScaler:
        # It counts for itself in the good steps of one scale: we keep the count over the rounds.
        return torch.amp.GradScaler(self._device.type, init_scale=scale, growth_interval=2**31 - 1)

    @property
    def value(self) -> float:
        """The scale; waits for the device."""
        return self._scaler.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss of which the gradients are taken."""
        # torch types it for trees of tensors.
        return self._scaler.scale(loss) if self.enabled else loss

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale."""
        if self.enabled:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Let the optimizer step unless a gradient is not finite; return whether it did.

        Waits for the device where it is enabled.
        """
        if not self.enabled:
            optimizer.step()
            return True
        before = self.value
        self._scaler.step(optimizer)
        self._scaler.update()
        if self.value < before:
            self._good = 0
            return False
        self._good += 1
        if self._good >= self._interval and before < _LARGEST:
            self._good = 0
            self._scaler.update(before * 2)
        return True

    def renew(self, scale: float | None = None) -> None:
        """Begin a step anew, with another scale where one is given: its gradients were given up."""
        if self.enabled:
            self._scaler = self._made(self.value if scale is None else scale)

    def state(self) -> dict[str, Tensor]:
        """Return what the silo's next round begins with; nothing where it is not enabled."""
        if not self.enabled:
            return {}
        return {SCALE: torch.tensor([self.value]), GOOD_STEPS: torch.tensor([self._good])}

"""FedProx (Li et al. 2020, arXiv 1812.06127, eq. 2).

Each silo minimises F_k(w) + mu/2 ||w - w_t||^2, w_t being the global weights of the round.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from strategies.fedavg import FedAvg
from strategies.silo_half import Records, SiloHalf


class FedProxSilo(SiloHalf):
    """The silo's half: it adds the gradient of the proximal term, mu (w - w_t).

    Written out, because automatic differentiation of the term costs more.
    """

    def __init__(self, mu: float) -> None:
        self.mu = mu
        self.start: list[Tensor] = []

    def begin(self, model: nn.Module, state: Records, sent: Records) -> None:
        """Keep the weights from which the silo must not go far.

        A personal layer is among them: it is held near to what it was before the round.
        """
        self.start = [w.detach().clone() for w in model.parameters() if w.requires_grad]

    def gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Pull each weight towards where it started."""
        moved = [
            (weight.grad, weight.detach(), origin)
            for weight, origin in zip(weights, self.start, strict=True)
            if weight.grad is not None
        ]
        if not moved:
            return
        gradients, now, start = map(list, zip(*moved, strict=True))
        # All at once: two launches on a GPU, and not two for each weight.
        torch._foreach_add_(gradients, torch._foreach_sub(now, start), alpha=self.mu)


class FedProx(FedAvg):
    """The server's half: FedAvg. `mu` reaches the silos with the run's configuration."""

    silo_half = FedProxSilo

    def __init__(self, mu: float = 0.01) -> None:
        super().__init__()
        self.mu = mu

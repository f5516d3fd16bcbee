"""FedProx (Li et al. 2020, arXiv 1812.06127, eq. 2).

Each silo minimises F_k(w) + mu/2 ||w - w_t||^2.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from strategies.fedavg import FedAvg
from strategies.wire import protocol


class FedProx(FedAvg):
    """FedAvg that tells the silos the weight of the proximal term, `mu`.

    The term itself is the silo's to add.
    """

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages with `mu` in their config record."""
        config[protocol.PROXIMAL_MU] = self.mu
        return super().configure_train(server_round, arrays, config, grid)

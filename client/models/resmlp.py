"""A residual network for tables (Gorishniy et al. 2021, arXiv 2106.11959, section 3.2), with layer
normalisation: batch statistics of skewed silos would differ.
"""

from __future__ import annotations

from torch import Tensor, nn

from client.models.base import features
from client.tasks.base import Contract


def build(contract: Contract, width: int = 128, blocks: int = 2, dropout: float = 0.1) -> nn.Module:
    """Return a linear layer, `blocks` residual blocks of `width` and twice as many hidden units, and
    a unit an output.

    Examples of any shape are taken as rows. Raises DataError MDW-207 where their shape varies.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features(contract, "resmlp"), width),
        *(Block(width, dropout) for _ in range(blocks)),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, contract.outputs),
    )


class Block(nn.Module):
    """x + dropout(linear(dropout(relu(linear(norm(x))))))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows (n, width)."""
        added: Tensor = rows + self.inside(rows)
        return added

"""A task that learns nothing: made-up rows at each silo, so that every kind of message has something to
carry (`server.round.smoke_table` tries the sizes). No data of a silo is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from client.partition import Indices
from client.tasks.base import Contract, Data, SumSpec
from client.tasks.kinds.arrays import Arrays
from client.tasks.kinds.classification import Classification
from conf.schema import Silo
from conf.seeds import seed_for

ROWS = 48
"""At each silo: 32 to train on, 8 to validate and 8 to test."""
WIDTH = 4


class Centred(nn.Module):
    """Rows less the mean of all silos' rows."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    @property
    def shape(self) -> tuple[int]:
        """The shape of one row."""
        return (WIDTH,)

    def fit(self, sums: Mapping[str, Tensor]) -> None:
        """Take the mean of all silos' rows."""
        self.mean.copy_(sums["total"] / max(int(sums["size"]), 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows of the same shape (n, 4)."""
        return rows - self.mean


class Smoke(Classification):
    """Whether the first of four numbers is above a half."""

    contract = Contract((WIDTH,), ("below", "above"))

    def data(self, silo: Silo) -> Data:
        """Return a silo's made-up rows."""
        examples = _made(silo)
        splits = (slice(0, 32), slice(32, 40), slice(40, ROWS))
        train, validation, test = (self.dataset(examples, split) for split in splits)
        return Data(train, validation, test, examples[1][:32])

    def train_labels(self, silo: Silo) -> Indices:
        """Return the classes of its training rows."""
        labels: Indices = _made(silo)[1][:32]
        return labels

    def input_layer(self) -> Centred:
        """Return a layer that needs the sums of all silos, so that they are asked for them."""
        return Centred()

    def statistics(self, data: Data) -> Mapping[str, Tensor]:
        """Return the sum of a silo's rows."""
        rows: Tensor = data.train[:][0]
        return {"total": rows.double().sum(0)}

    def statistic_specs(self) -> Mapping[str, SumSpec]:
        """Return its form."""
        return {"total": SumSpec((WIDTH,), real=True)}


def _made(silo: Silo) -> Arrays:
    random = np.random.default_rng(seed_for(0, silo.name, 0, "smoke"))
    rows = random.random((ROWS, WIDTH), np.float32)
    return rows, (rows[:, 0] > 0.5).astype(np.int64)

"""One round of training as a silo is asked for it: what every kind of round begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client import loop
from client.cache import Loaded
from client.loop import Arrays, Trained
from conf.schema import RunScope, Silo
from conf.seeds import seed_for
from strategies.silo_half import Records, SiloHalf


@dataclass(frozen=True)
class SiloRound:
    """Who is asked for which round, with what."""

    loaded: Loaded
    """The model, with the weights that the round begins at, and the silo's data."""
    scope: RunScope
    half: SiloHalf
    silo: Silo
    run: str
    round: int
    told: Mapping[str, Any]
    """What the message says of the round."""
    state: Records
    """What the algorithm's half kept of the round before."""
    sent: Records
    """What the server sends beside the model."""
    scaling: Arrays
    """fp16's scale (`client.loss_scale`); else empty."""

    def trained(self) -> Trained:
        """Train the model in place for the run's local epochs (`client.loop.train`), seeded by run,
        silo and round.
        """
        loaded = self.loaded
        return loop.train(
            loaded.model,
            loaded.data.train,
            loaded.task,
            loaded.trainer,
            self.half,
            seed=seed_for(self.scope.run.seed, self.silo.name, self.round, "train"),
            round=self.round,
            rounds=self.scope.run.rounds,
            labels=loaded.data.labels,
            state=self.state,
            sent=self.sent,
            scaling=self.scaling,
        )

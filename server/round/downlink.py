"""The run's models as its silos get them: whole, or made of the one before and an encoded change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from flwr.app import ArrayRecord

from conf.schema import CompressionConf
from conf.seeds import seed_for
from strategies.compression.codec import Codec
from strategies.compression.step import Step, down_codec, stepped
from strategies.wire.digests import arrays_digest


@dataclass(frozen=True)
class Offer:
    """The model that silos are sent, its digest, and the step to it from the one before."""

    model: ArrayRecord
    digest: str
    before: str = ""
    """The digest of the model before; empty where there is no step."""
    step: Step | None = None


@dataclass
class Downlink:
    """Makes each model of a run of the one before it."""

    codec: Codec
    parameters: Collection[str]
    seed: int
    offer: Offer | None = field(default=None, init=False)
    """The last model, once there was one."""

    @staticmethod
    def of(conf: CompressionConf, parameters: Collection[str], seed: int) -> Downlink | None:
        """Return the downlink of a run; None where its models travel whole."""
        codec = down_codec(conf)
        return None if codec is None else Downlink(codec, parameters, seed)

    def sent(self, model: ArrayRecord) -> Offer:
        """Return how a model is sent: by a step to it, if it was made of one."""
        if self.offer is None or self.offer.model is not model:
            self.offer = Offer(model, arrays_digest(model))
        return self.offer

    def next(self, before: ArrayRecord, mean: ArrayRecord, round: int) -> Offer:
        """Return the model that takes the place of a round's mean, and the step to it."""
        seed = seed_for(self.seed, "server", round, "downlink")
        model, step = stepped(self.codec, before, mean, self.parameters, seed)
        digest = self.sent(before).digest
        self.offer = Offer(model, arrays_digest(model), digest, step)
        return self.offer

"""Makes a run's models again from who was admitted in each round, with the product's own aggregation."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from conf.schema import Conf
from server.engines.server_identity import give_identity_back, take_identity
from server.round.aggregation import Aggregation
from server.scoring.evaluation import first_weights
from strategies import build_strategy
from strategies.wire.digests import arrays_digest, update_digest
from tests.chaos.oracle import Closed
from tests.chaos.stand_in import update_of
from tests.server.round.scripted_grid import Clock, TrainingGrid


def replay(conf: Conf, admitted: Sequence[Collection[str]]) -> list[Closed]:
    """Return the rounds that these admissions make, from the run's first weights on."""
    identity = take_identity(1)
    try:
        strategy = build_strategy(conf.strategy)
        model = first_weights(conf)
        closed: list[Closed] = []
        for round, silos in enumerate(admitted, 1):
            grid = TrainingGrid(Clock(), dict(enumerate(sorted(silos), 1)))
            list(strategy.configure_train(round, model, ConfigRecord(), grid))
            updates = {silo: update_of(model, silo, round) for silo in silos}
            digests = {silo: update_digest(content) for silo, content in updates.items()}
            model = _mean(strategy, round, model, updates)
            closed.append(Closed(arrays_digest(model), digests))
        return closed
    finally:
        give_identity_back(identity)


def _mean(
    strategy: Strategy, round: int, model: ArrayRecord, updates: dict[str, RecordDict]
) -> ArrayRecord:
    def refuse(silo: str, why: Exception) -> None:
        raise AssertionError(f"{silo} was admitted, and can't be averaged: {why}")

    replies = (
        (silo, Message(content, reply_to=Message(RecordDict(), 1, "train")))
        for silo, content in updates.items()
    )
    mean, _ = Aggregation(strategy, round, model, refuse, lambda: None).of_stream(replies)
    assert mean is not None
    return mean

"""What a strategy declares that folds updates in one by one and needs no list of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy


class Streaming(Strategy):
    """A Flower strategy whose `aggregate_train` takes an iterator: derive from it to declare that.

    Meadow's round loop then hands over each admitted reply in the moment in which it arrives, so
    that one of them is in memory and not all; every other strategy gets a list, in the order of the
    silos' names. Under Flower's own `Strategy.start` a streaming strategy gets Flower's list, which
    is an iterable too.
    """

    @abstractmethod
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model and the metrics of the training.

        `replies` may be an iterator that waits for the next reply: go through it once (a second
        time is RoundError MDW-403), drop each reply before the next one, and read its records with
        `strategies.wire.protocol.records`. The result must not depend on the order, which is that
        of arrival. The replies that are not read count as having arrived all the same.
        """

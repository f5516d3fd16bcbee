"""What a strategy declares that folds updates in one by one and needs no list of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from conf.errors import MeadowError


class Replies(Iterator[Message]):
    """A round's replies as Meadow's loop hands them over: one can be given back."""

    @abstractmethod
    def refuse(self, why: MeadowError) -> None:
        """Take the last reply out of the round: it can't be folded. Nothing of it was."""

    def silo(self) -> str:
        """Return the name of the silo whose reply was read last; empty where nobody knows it."""
        return ""

    def largest(self) -> Mapping[str, Mapping[str, float]]:
        """Return what is known of the last reply's values, which then are finite: by record and
        array the largest magnitude, of the changes where those are averaged
        (`strategies.average.is_folded_as_change`). Empty where nobody has looked.
        """
        return {}


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
        of arrival. The replies that are not read count as having arrived all the same. One that
        can't be folded costs its silo's update and not the round, where `replies` are `Replies`
        and it is refused.
        """

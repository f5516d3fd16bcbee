"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

W_{t+1} = sum_k n_k/n * w_k.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from numpy.typing import NDArray

from conf.errors import WireError
from strategies.average import MetricMeans, WeightedMean
from strategies.silo_half import SiloHalf
from strategies.streaming import Streaming
from strategies.wire import protocol

log = logging.getLogger(__name__)

R = TypeVar("R")


class FedAvg(Streaming):
    """Asks every node that the grid shows, and averages their models weighted by their examples.

    Replies are folded in one by one (`strategies.streaming`), so that given an iterator only one of
    them is in memory at a time; the model does not depend on their order (`strategies.average`).
    Error replies are passed over.
    """

    silo_half: ClassVar[type[SiloHalf]] = SiloHalf
    """What the silos do in their training; constructed there, with those of the strategy's own
    arguments that it takes.
    """

    def __init__(self) -> None:
        self._order: list[str] = []  # of the arrays as they were sent; renewed each round

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one training message for each node of the grid, in the order of their ids."""
        self._order = list(arrays)
        return self._ask(MessageType.TRAIN, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one evaluation message for each node of the grid, in the order of their ids."""
        return self._ask(MessageType.EVALUATE, server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean model, and the means of the metrics that all replies have.

        Both are None without replies. Raises WireError (MDW-660 to 665) for a reply that can't be
        averaged.
        """
        mean, metrics = WeightedMean(), MetricMeans()
        for reply in replies:
            if not reply.has_error():
                examples = _fold_metrics(reply, metrics)
                mean.add(_arrays(reply), examples)
            del reply  # the iterator may free it before it waits for the next
        if not mean.count:
            return None, None
        return self._in_order(mean.result()), _record_of(metrics)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the example-weighted means of the metrics that all replies have.

        None without replies.
        """
        metrics = MetricMeans()
        for reply in replies:
            if not reply.has_error():
                _fold_metrics(reply, metrics)
        return _record_of(metrics) if metrics.weight else None

    def summary(self) -> None:
        """Log what the strategy is."""
        log.info(
            "%s: mean weighted by %s, folded as replies arrive",
            type(self).__name__,
            protocol.NUM_EXAMPLES,
        )

    def _in_order(self, result: dict[str, NDArray[Any]]) -> ArrayRecord:
        order = self._order or list(result)
        for name in sorted(set(order) ^ set(result)):
            raise WireError(
                "MDW-660",
                f"{name!r} was asked or answered, not both.",
                "All must train the same model.",
            )
        return ArrayRecord(
            {name: Array(result.pop(name)) for name in order}
        )  # a second copy of one array at a time

    def _ask(
        self,
        message_type: str,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        config[protocol.ROUND] = (
            server_round  # in place, as Flower's own strategies do: they share one record a run
        )
        content = RecordDict({protocol.ARRAYS: arrays, protocol.CONFIG: config})
        return [
            Message(content=content, message_type=message_type, dst_node_id=node)
            for node in sorted(grid.get_node_ids())
        ]


def _arrays(reply: Message) -> dict[str, NDArray[Any]]:
    record = _only(protocol.records(reply.content, ArrayRecord))
    arrays = protocol.to_numpy(record)
    for name, array in record.items():
        if array.dtype != str(arrays[name].dtype):  # bfloat16 travels as the bits of whole numbers
            raise WireError(
                "MDW-660",
                f"{name!r} is {array.dtype}, which has no mean here.",
                "Send it as float32.",
            )
    return arrays


def _fold_metrics(reply: Message, metrics: MetricMeans) -> int:
    """Fold the metrics of a reply and return its number of examples."""
    values = dict(_only(protocol.records(reply.content, MetricRecord)))
    examples = values.pop(protocol.NUM_EXAMPLES, None)
    if not isinstance(examples, int):
        raise WireError(
            "MDW-665",
            f"A reply's {protocol.NUM_EXAMPLES} is {examples!r:.40}.",
            "It must be a whole number.",
        )
    metrics.add(values, examples)
    return examples


def _only(records: Mapping[str, R]) -> R:
    if len(records) != 1:
        raise WireError(
            "MDW-665", f"A reply has {len(records)} records of a kind.", "It must have exactly one."
        )
    return next(iter(records.values()))


def _record_of(metrics: MetricMeans) -> MetricRecord:
    record = MetricRecord({protocol.NUM_EXAMPLES: metrics.weight})
    record.update(metrics.result())
    return record

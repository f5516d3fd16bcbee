"""The server's half of an algorithm: the mean of what the silos send, folded as it arrives, with
hooks for what an algorithm does beyond that.

A round:

    beside(arrays)                       # what is sent to the silos beside the model
    weight(examples)                     # of each reply in the mean
    noise.released(before, mean)         # under privacy=silo_dp: nothing later sees the mean itself
    after(before, mean, extra, replies)  # the next model

An algorithm that gets more than the model from its silos names the records in `extra`. The round
loop admits a reply only with exactly these, each array of the declared type and shape and finite,
and each record is folded into a mean of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
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
from strategies.average import HELD_BYTES, Checked, WeightedMean, are_held
from strategies.mean_noise import MeanNoise
from strategies.metric_means import MetricMeans
from strategies.silo_half import SiloHalf, belongs
from strategies.streaming import Replies, Streaming
from strategies.wire import protocol
from strategies.wire.half_types import FLOATS, HALVES, Numbers, as_sent, tagged
from strategies.wire.objects import BFLOAT16

log = logging.getLogger(__name__)

R = TypeVar("R")

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name. Those of a model of half types are float32 or float64: what is made of them is
rounded when it becomes a model.
"""
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""The type and shape of each array of a record, by name."""


class Algorithm(Streaming):
    """Asks every node that the grid shows, and averages what they send: derive from it.

    The mean does not depend on the order of the replies (`strategies.average`). Up to `hold_bytes`
    of them are held until all are there; of more each is folded in as it arrives
    (`strategies.streaming`), so that given an iterator only one is in memory at a time.
    Error replies are passed over. Everything that an instance keeps in attributes is part of a
    checkpoint (`strategies.state`).
    """

    silo_half: ClassVar[type[SiloHalf]] = SiloHalf
    """What the silos do in their training; constructed there, with those of the strategy's own
    arguments that it takes.
    """
    extra: ClassVar[Sequence[str]] = ()
    """Names of the records that each reply holds beside the model, laid out as `layout` says."""
    keeps: Sequence[str] = ()
    """Beginnings of the names of arrays that the silos keep (`SiloHalf.keeps`): they have none in
    their replies, and the server's own stay what they were. Those of `strategy.keeps` are added.
    """

    weighting: str = protocol.BY_EXAMPLES
    """What a reply weighs by (`strategy.weighting`): examples, size or equal."""
    noise: MeanNoise | None = None
    """What puts noise into the mean before `after` sees it, where the run has silo-level privacy."""
    clip_norm: float
    """The norm that follows the silos' norms (privacy.clipping=adaptive); not there in other runs, so
    that their checkpoints do not hold it.
    """
    renewed: ClassVar[Collection[str]] = (
        "silos",
        "parameters",
        "weighting",
        "keeps",
        "noise",
        "cohort",
        "hold_bytes",
        "_sent",
    )
    """Attributes that are set anew before they are read, so that no checkpoint holds them."""
    silos: int = 0
    """How many silos the run has, asked in this round or not."""
    cohort: int | None = None
    """How many replies a round may have at most; None where nobody has said so."""
    hold_bytes: int = HELD_BYTES
    """Up to which a round's replies are held (`strategy.hold_mib`)."""
    parameters: Collection[str] | None = None
    """Which of the arrays that the silos send are parameters and no buffers; None where nobody has
    said so.
    """
    _sent: ArrayRecord = ArrayRecord()

    @property
    def fewest(self) -> int:
        """How many updates it makes a model of: a round with fewer has no quorum."""
        return 1

    def open(self, silos: int, parameters: Collection[str]) -> None:
        """Learn what a round does not show, before the first one.

        Flower's own loop does not call it: there every silo is asked, and all arrays of floats
        count as parameters.
        """
        self.silos = silos
        self.parameters = [name for name in parameters if not belongs(name, self.keeps)]

    def layout(self, name: str, arrays: ArrayRecord) -> Layout:
        """Return what an extra record must be: by default as the parameters are that silos send.

        What is said of an array that a silo keeps (its gradient, say) would tell of the array. Of
        halves it is float32.
        """
        sent = self.travelling(arrays)
        floats = {n: a for n, a in sent.items() if a.dtype in FLOATS}
        if self.parameters is not None:
            floats = {n: a for n, a in floats.items() if n in self.parameters}
        wide = {n: "float32" if a.dtype in HALVES else a.dtype for n, a in floats.items()}
        return {n: (wide[n], tuple(a.shape)) for n, a in floats.items()}

    def travelling(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return those of the model's arrays that the silos send."""
        if not self.keeps:
            return arrays
        # The very same arrays: the constructor of Flower's record makes others of them.
        sent = ArrayRecord()
        for name, array in arrays.items():
            if not belongs(name, self.keeps):
                sent[name] = array
        return sent

    def beside(self, arrays: ArrayRecord) -> Mapping[str, Arrays]:
        """Return the records that are sent to the silos beside the model."""
        return {}

    def weight(self, examples: int) -> int:
        """Return the weight of a reply in the means: the number of its examples.

        With another `weighting` it is given what that counts in their place.
        """
        return examples

    def after(
        self, before: Arrays, mean: Arrays, extra: Mapping[str, Arrays], replies: int
    ) -> Arrays:
        """Return the next model.

        `before` is the one that was sent, without what the silos keep, `mean` that of the replies
        and `extra` the means of the other records. A round without replies is passed over.
        """
        return mean

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one training message for each node of the grid, in the order of their ids."""
        self._sent = arrays
        if self.parameters is None:
            self.silos = len(list(grid.get_node_ids()))
        beside = {name: _record(values) for name, values in self.beside(arrays).items()}
        return _ask(MessageType.TRAIN, server_round, arrays, config, grid, beside)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one evaluation message for each node of the grid, in the order of their ids."""
        return _ask(MessageType.EVALUATE, server_round, arrays, config, grid, {})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model, and the means of the metrics that all replies have.

        Both are None without replies. A reply that can't be averaged is refused where the replies
        can be (`Replies`); elsewhere WireError (MDW-660 to 665) is raised for it.
        """
        # Without names there is no order to add them up in.
        held = isinstance(replies, Replies) and self._holds()
        extra_means = {name: WeightedMean(held=held) for name in self.extra}
        means = _Means(extra_means, WeightedMean(_as_they_lie(self._sent), held=held))
        for reply in replies:
            if not reply.has_error():
                known = replies.largest() if isinstance(replies, Replies) else {}
                silo = replies.silo() if isinstance(replies, Replies) else ""
                try:
                    self._fold(reply, means, known, silo)
                except WireError as why:
                    if not isinstance(replies, Replies):
                        raise
                    replies.refuse(why)
            # The iterator may free it before it waits for the next one.
            del reply
        count = means.model.count
        if not count:
            return None, None
        extra = {name: mean.result() for name, mean in means.extra.items()}
        before = Numbers(self.travelling(self._sent))
        mean: Arrays = means.model.result()
        if self.noise is not None:
            mean = self.noise.released(before, mean, count)
        result = self.after(before, mean, extra, count)
        return self._in_order(dict(result)), _record_of(means.metrics)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the example-weighted means of the metrics that all replies have.

        None without replies.
        """
        metrics = MetricMeans()
        for reply in replies:
            if not reply.has_error():
                values = dict(_only(protocol.records(reply.content, MetricRecord)))
                _fold_metrics(values, metrics, _weight_in(values, protocol.BY_EXAMPLES))
        return _record_of(metrics) if metrics.weight else None

    def summary(self) -> None:
        """Log what the strategy is."""
        log.info(
            "%s: mean weighted by %s",
            type(self).__name__,
            self.weighting,
        )

    def _holds(self) -> bool:
        """Say whether the replies of a round are held until all are there.

        That is decided by the cohort and by what was sent, never by what arrives.
        """
        if self.cohort is None:
            return False
        model = [(a.dtype, tuple(a.shape)) for a in self.travelling(self._sent).values()]
        extra = [one for name in self.extra for one in self.layout(name, self._sent).values()]
        return are_held([*model, *extra], self.cohort, self.hold_bytes)

    def _fold(
        self,
        reply: Message,
        means: _Means,
        known: Mapping[str, Mapping[str, float]],
        silo: str,
    ) -> None:
        """Fold a reply into all means, or raise MeadowError and fold nothing of it.

        `known` says how large its arrays are, by record, where somebody has looked.
        """
        values = dict(_only(protocol.records(reply.content, MetricRecord)))
        counted = _weight_in(values, self.weighting)
        weight = self.weight(counted)
        records = protocol.records(reply.content, ArrayRecord)
        checked: list[tuple[WeightedMean, Checked]] = []
        for name, mean in means.extra.items():
            if name not in records:
                raise _wrong_records(list(records))
            arrays = _arrays(records.pop(name), ArrayRecord())
            checked.append((mean, mean.checked(arrays, weight, known.get(name), silo)))
        arrays = _arrays(_only(records), self._sent)
        largest = known.get(next(iter(records)))
        checked.append((means.model, means.model.checked(arrays, weight, largest, silo)))
        # Only now: every one of them takes it.
        for mean, update in checked:
            mean.fold(update)
        _fold_metrics(values, means.metrics, counted)

    def _in_order(self, result: dict[str, NDArray[Any]]) -> ArrayRecord:
        if not self._sent:
            return _record(result)
        for name in sorted(set(self.travelling(self._sent)) ^ set(result)):
            raise WireError(
                "MDW-660",
                f"{name!r} was asked or answered, not both.",
                "All must train the same model.",
            )
        ordered = ArrayRecord()
        for name, sent in self._sent.items():
            # A second copy of one array at a time.
            ordered[name] = as_sent(result.pop(name), sent) if name in result else sent
        return ordered


@dataclass
class _Means:
    """What a round's replies are folded into."""

    extra: dict[str, WeightedMean]
    model: WeightedMean
    metrics: MetricMeans = field(default_factory=MetricMeans)


def _ask(
    message_type: str,
    server_round: int,
    arrays: ArrayRecord,
    config: ConfigRecord,
    grid: Grid,
    beside: Mapping[str, ArrayRecord],
) -> list[Message]:
    # In place, as Flower's own strategies do: they share one record a run.
    config[protocol.ROUND] = server_round
    content = RecordDict({protocol.ARRAYS: arrays, protocol.CONFIG: config, **beside})
    return [
        Message(content=content, message_type=message_type, dst_node_id=node)
        for node in sorted(grid.get_node_ids())
    ]


def _record(values: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def _as_they_lie(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: tagged(array) for name, array in record.items()}


def _arrays(record: ArrayRecord, sent: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the arrays of a reply; raises WireError MDW-660 for halves that answer no such array."""
    for name, array in record.items():
        if array.dtype == BFLOAT16 and (name not in sent or sent[name].dtype != BFLOAT16):
            raise WireError(
                "MDW-660",
                f"{name!r} is {array.dtype}, which has no mean here.",
                "Send it as float32.",
            )
    return _as_they_lie(record)


def _weight_in(values: Mapping[str, object], weighting: str) -> int:
    """Return what a reply with such metrics weighs: its examples, its size, or 1."""
    weight = protocol.weight_in(values, weighting)
    name = protocol.SIZE if weighting == protocol.BY_SIZE else protocol.NUM_EXAMPLES
    if not isinstance(weight, int):
        raise WireError(
            "MDW-665",
            f"A reply's {name} is {weight!r:.40}.",
            "It must be a whole number.",
        )
    return weight


def _fold_metrics(values: Mapping[str, object], metrics: MetricMeans, weight: int) -> None:
    counts = (protocol.NUM_EXAMPLES, protocol.SIZE)
    metrics.add({name: value for name, value in values.items() if name not in counts}, weight)


def _only(records: Mapping[str, R]) -> R:
    if len(records) != 1:
        raise _wrong_records(list(records))
    return next(iter(records.values()))


def _wrong_records(names: Collection[str]) -> WireError:
    return WireError(
        "MDW-665",
        f"A reply has {len(names)} records of a kind.",
        "It must have exactly one, and those that the strategy declares as its extra ones.",
    )


def _record_of(metrics: MetricMeans) -> MetricRecord:
    record = MetricRecord({protocol.NUM_EXAMPLES: metrics.weight})
    record.update(metrics.result())
    return record

"""Any Flower strategy, from Flower, a package or one file (`conf.targets`): hosted on the server.

An argument named `strategy`, which Flower's differential-privacy wrappers take, is itself a mapping
of `target`, the import path of an installed package's, and `args`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeGuard

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from conf.errors import ConfigError, WireError
from conf.targets.modules import imported
from conf.targets.place import locate
from conf.targets.signature import call, check
from conf.targets.sources import read
from strategies.state import restore, state_of
from strategies.wire import protocol
from strategies.wire.half_types import HALVES, as_sent, rounded, widened
from strategies.wire.objects import as_declared

DEFAULTS: Final = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "train_loss_key": protocol.LOSS,
}
"""Given where a constructor takes them and the user does not.

Who takes part is the run's decision, and the loss that QFedAvg reads has the wire's name.
"""

UNFIT: Final = {
    "DifferentialPrivacyClientSideFixedClipping": "it adds noise for updates that the silos clip with"
    " fixedclipping_mod, which Meadow's client does not run: the noise would promise what it does not keep",
    "DifferentialPrivacyClientSideAdaptiveClipping": "it needs the norm bit of adaptiveclipping_mod in each reply,"
    " which Meadow's client does not run",
    "FedXgbBagging": "it joins XGBoost trees, and the tasks here train networks",
}
"""Flower's own strategies that can't work here, and why (docs/strategies.md)."""


class External(Strategy):
    """Hosts a strategy written for Flower: it sees arrays of floats, in the model's order and
    dtypes, halves as float32.

    Counters (integer arrays, when there are floats beside them) do not pass through it: the largest
    of the replies is kept, as in `strategies.average`. What it returns is cast back to the model's
    dtypes (FedAdam and others return float64), so that every round sends the same layout. Arrays in
    `frozen`, which nobody trains, stay as they are: a mean of equal values that is rounded may be
    another one, and a server's step may make more of the difference. With the weighting `equal`
    each reply is shown to it as one of a single example.
    """

    frozen: Collection[str] = ()

    def __init__(self, inner: Strategy, weighting: str = protocol.BY_EXAMPLES) -> None:
        self.inner = inner
        self._weighting = weighting
        # Of the arrays as they were sent; renewed each round.
        self._layout: dict[str, str] = {}
        self._counters: dict[str, Array] = {}
        self._frozen: dict[str, Array] = {}
        # What can't be kept in a checkpoint is refused before the run begins.
        state_of(self.inner)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the strategy's own messages, with the counters back in their place."""
        _enough_nodes(self.inner, grid)
        self._layout = {name: array.dtype for name, array in arrays.items()}
        self._counters = {}
        if not _only_counters(arrays):
            self._counters = {n: array for n, array in arrays.items() if _is_counter(array)}
        self._frozen = {name: arrays[name] for name in arrays if name in self.frozen}
        floats = widened(ArrayRecord({n: arrays[n] for n in arrays if n not in self._counters}))
        config[protocol.ROUND] = server_round
        messages = list(self.inner.configure_train(server_round, floats, config, grid))
        known: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
        return [self._as_the_model_is(message, arrays, known) for message in messages]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the strategy's own messages."""
        _enough_nodes(self.inner, grid)
        config[protocol.ROUND] = server_round
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the strategy makes of the replies, in the model's names, order and dtypes."""
        counters = dict(self._counters)
        good = [reply for reply in replies if not reply.has_error()]
        if not good:
            return None, None
        for reply in good:
            if self._weighting == protocol.EQUAL:
                _as_of_one_example(reply)
            for key, record in protocol.records(reply.content, ArrayRecord).items():
                reply.content[key] = self._floats(record, counters)
        arrays, metrics = self.inner.aggregate_train(server_round, good)
        if arrays is not None:
            arrays = self._whole(arrays, counters)
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return what the strategy makes of the replies."""
        good = [reply for reply in replies if not reply.has_error()]
        if not good:
            return None
        return self.inner.aggregate_evaluate(server_round, good)

    def summary(self) -> None:
        """Log the strategy's own summary."""
        self.inner.summary()

    def state(self) -> RecordDict:
        """Return the hosted strategy's state."""
        return state_of(self.inner)

    def restore(self, state: RecordDict) -> None:
        """Continue from the hosted strategy's state."""
        restore(self.inner, state)

    def _as_the_model_is(
        self,
        message: Message,
        arrays: ArrayRecord,
        known: dict[int, tuple[ArrayRecord, ArrayRecord]],
    ) -> Message:
        """Put the counters and the halves back into a message; `known` has by `id` what was made of
        a record, which messages share.
        """
        halves = [name for name, dtype in self._layout.items() if dtype in HALVES]
        if not self._counters and not halves:
            return message
        for key, sent in protocol.records(message.content, ArrayRecord).items():
            if id(sent) not in known:
                whole = {n: arrays[n] if n in self._counters else sent[n] for n in arrays}
                whole |= {name: as_sent(whole[name].numpy(), arrays[name]) for name in halves}
                made = ArrayRecord(whole)
                # Messages may share all of their content: what was made is not to be made again.
                known[id(sent)] = (sent, made)
                known[id(made)] = (made, made)
            message.content[key] = known[id(sent)][1]
        return message

    def _floats(self, record: ArrayRecord, counters: dict[str, Array]) -> ArrayRecord:
        """Return a reply's floats in the order they were sent; its counters raise `counters`."""
        differing = sorted(set(self._layout) ^ set(record))
        if differing:
            what = f"{differing[0]!r} was asked or answered, not both."
            raise WireError("MDW-660", what, "All must train the same model.")
        for name, largest in counters.items():
            counters[name] = Array(np.asarray(np.maximum(largest.numpy(), record[name].numpy())))
        # The very same arrays: the constructor of Flower's record writes out those that lie in a
        # file (`server.round.mapped_replies`).
        floats = ArrayRecord()
        for name in self._layout:
            if name not in self._counters:
                floats[name] = record[name]
        return widened(floats)

    def _whole(self, arrays: ArrayRecord, counters: Mapping[str, Array]) -> ArrayRecord:
        if not self._layout or _only_counters(arrays):
            return arrays
        whole = ArrayRecord()
        kept = {**counters, **self._frozen}
        for name, dtype in self._layout.items():
            whole[name] = kept[name] if name in kept else _cast(arrays[name], dtype)
        return whole


def construct(cls: object, args: Mapping[str, Any], name: str, key: str) -> Strategy:
    """Return an instance of a class called `name`, its arguments, written at `key`, checked.

    Raises ConfigError: MDW-172 not a Flower Strategy, MDW-157 can't work here, MDW-173 to MDW-176
    of `conf.targets.signature.call`.
    """
    if not _is_strategy(cls):
        what = f"The strategy {name} does not implement flwr.serverapp.strategy.Strategy."
        raise ConfigError("MDW-172", what, "Derive the class from it, and define its methods.")
    if cls.__name__ in UNFIT and cls.__module__.startswith("flwr."):
        what = f"The strategy {name} can't work here: {UNFIT[cls.__name__]}."
        raise ConfigError("MDW-157", what, "docs/strategies.md lists those that can.")
    arguments = dict(args)
    check(cls, arguments, key, DEFAULTS)
    if isinstance(arguments.get("strategy"), Mapping):
        arguments["strategy"] = _nested(arguments["strategy"], f"{key}.strategy")
    made: Strategy = call(cls, arguments, key, DEFAULTS)
    return made


def construct_at(target: str, args: Mapping[str, Any], key: str = "strategy") -> Strategy:
    """Return an instance of the class that a target names; see `construct` and `conf.targets`.

    Raises ConfigError MDW-170 to MDW-176 and MDW-157.
    """
    place = locate(target, f"{key}.target")
    cls = imported(read(place, f"{key}.target"), f"{key}.target")
    return construct(cls, args, place.name, f"{key}.args")


def _nested(inner: Mapping[str, Any], key: str) -> Strategy:
    """Return the strategy around which another one is put: of an installed package alone.

    A target in an argument may travel, so it must not name a file.
    """
    if not set(inner) <= {"target", "args"} or "target" not in inner:
        what = f"{key} has the keys {', '.join(map(str, inner))}."
        raise ConfigError("MDW-173", what, "It takes `target` and, if any, `args`.")
    target = str(inner["target"])
    place = locate(target, f"{key}.target")
    if not place.installed:
        what = f"{key}.target={target} is not of an installed package."
        raise ConfigError("MDW-170", what, "Make it in the constructor of a strategy of your own.")
    return construct_at(target, inner.get("args") or {}, key)


def _is_strategy(value: object) -> TypeGuard[type[Strategy]]:
    return isinstance(value, type) and issubclass(value, Strategy) and not inspect.isabstract(value)


def _enough_nodes(strategy: Strategy, grid: Grid) -> None:
    """Raise ConfigError MDW-158 where a strategy of Flower would wait for ever for more nodes."""
    nodes = len(list(grid.get_node_ids()))
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        least = getattr(strategy, name, 0)
        if least > nodes:
            raise ConfigError(
                "MDW-158",
                f"{type(strategy).__name__} waits for {least} silos ({name}),"
                f" and {nodes} take part in this round.",
                f"Lower strategy.args.{name} where it can be set, or let more silos take part.",
            )
    inner = getattr(strategy, "strategy", None)
    if isinstance(inner, Strategy):
        _enough_nodes(inner, grid)


def _as_of_one_example(reply: Message) -> None:
    """Let a reply say that it is of one example, by which Flower's strategies weigh it."""
    for record in protocol.records(reply.content, MetricRecord).values():
        record[protocol.NUM_EXAMPLES] = 1


def _is_counter(array: Array) -> bool:
    return array.dtype not in HALVES and np.dtype(array.dtype).kind in "iub"


def _only_counters(arrays: ArrayRecord) -> bool:
    return all(_is_counter(array) for array in arrays.values())


def _cast(array: Array, dtype: str) -> Array:
    if array.dtype == dtype:
        return array
    return as_declared(dtype, rounded(np.asarray(array.numpy()), dtype))

"""Any Flower strategy, from Flower, a package or one file: imported on the server, its arguments checked, hosted.

`target` is a dotted path (`flwr.serverapp.strategy.FedAdam`; the current folder counts as importable) or a file and
a class (`path/to/my_strategy.py:MyStrategy`). An argument named `strategy`, which Flower's differential-privacy
wrappers take, is itself a mapping of `target` and `args`.
"""

from __future__ import annotations

import collections.abc
import hashlib
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from conf.errors import ConfigError, MeadowError, WireError
from conf.schema_keys import bare, nearest
from strategies.state import restore, state_of
from strategies.wire import protocol

DEFAULTS: Final = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "train_loss_key": protocol.LOSS,
}
"""Given where a constructor takes them and the user does not: who takes part is the run's decision, and the loss
that QFedAvg reads has the wire's name."""

UNFIT: Final = {
    "DifferentialPrivacyClientSideFixedClipping": "it adds noise for updates that the silos clip with"
    " fixedclipping_mod, which Meadow's client does not run: the noise would promise what it does not keep",
    "DifferentialPrivacyClientSideAdaptiveClipping": "it needs the norm bit of adaptiveclipping_mod in each reply,"
    " which Meadow's client does not run",
    "FedXgbBagging": "it joins XGBoost trees, and the tasks here train networks",
}
"""Flower's own strategies that can't work here, and why (docs/strategies.md)."""


class External(Strategy):
    """Hosts a strategy written for Flower: it sees arrays of floats, in the order and dtypes of the model.

    Counters (integer arrays, when there are floats beside them) do not pass through it: the largest of the replies
    is kept, as in `strategies.average`. What it returns is cast back to the model's dtypes (FedAdam and others
    return float64), so that every round sends the same layout.
    """

    def __init__(self, target: str, args: Mapping[str, Any]) -> None:
        self.inner = construct(target, args, "strategy")
        self._layout: dict[
            str, np.dtype[Any]
        ] = {}  # of the arrays as they were sent; renewed each round
        self._counters: dict[str, Array] = {}
        state_of(self.inner)  # what can't be kept in a checkpoint is refused before the run begins

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the strategy's own messages, with the counters back in their place."""
        _enough_nodes(self.inner, grid)
        self._layout = {name: np.dtype(array.dtype) for name, array in arrays.items()}
        self._counters = (
            {} if _only_counters(arrays) else {n: a for n, a in arrays.items() if _is_counter(a)}
        )
        floats = ArrayRecord(
            {name: array for name, array in arrays.items() if name not in self._counters}
        )
        config[protocol.ROUND] = server_round
        messages = list(self.inner.configure_train(server_round, floats, config, grid))
        return [self._with_counters(message, arrays) for message in messages]

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
        """Return what the strategy makes of the replies, as arrays of the model's names, order and dtypes."""
        counters = dict(self._counters)
        good = [reply for reply in replies if not reply.has_error()]
        for reply in good:
            for key, record in protocol.records(reply.content, ArrayRecord).items():
                reply.content[key] = self._floats(record, counters)
        arrays, metrics = self.inner.aggregate_train(server_round, good) if good else (None, None)
        return (None if arrays is None else self._whole(arrays, counters)), metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return what the strategy makes of the replies."""
        good = [reply for reply in replies if not reply.has_error()]
        return self.inner.aggregate_evaluate(server_round, good) if good else None

    def summary(self) -> None:
        """Log the strategy's own summary."""
        self.inner.summary()

    def state(self) -> RecordDict:
        """Return the hosted strategy's state."""
        return state_of(self.inner)

    def restore(self, state: RecordDict) -> None:
        """Go on from the hosted strategy's state."""
        restore(self.inner, state)

    def _with_counters(self, message: Message, arrays: ArrayRecord) -> Message:
        if self._counters:
            for key, sent in protocol.records(message.content, ArrayRecord).items():
                message.content[key] = ArrayRecord(
                    {n: arrays[n] if n in self._counters else sent[n] for n in arrays}
                )
        return message

    def _floats(self, record: ArrayRecord, counters: dict[str, Array]) -> ArrayRecord:
        """Return the floats of a reply in the order they were sent; its counters raise those in `counters`."""
        for name in sorted(set(self._layout) ^ set(record)):
            raise WireError(
                "MDW-660",
                f"{name!r} was asked or answered, not both.",
                "All must train the same model.",
            )
        for name, largest in counters.items():
            counters[name] = Array(np.asarray(np.maximum(largest.numpy(), record[name].numpy())))
        return ArrayRecord(
            {name: record[name] for name in self._layout if name not in self._counters}
        )

    def _whole(self, arrays: ArrayRecord, counters: Mapping[str, Array]) -> ArrayRecord:
        if not self._layout or _only_counters(arrays):
            return arrays
        return ArrayRecord(
            {
                name: counters[name] if name in counters else _cast(arrays[name], dtype)
                for name, dtype in self._layout.items()
            }
        )


def construct(target: str, args: Mapping[str, Any], key: str) -> Strategy:
    """Import the class that `target` names and return an instance, its arguments checked against its constructor.

    Raises ConfigError: MDW-151 nothing to import, MDW-152 no Flower Strategy, MDW-153 an unknown argument, MDW-154 a
    missing one, MDW-155 one of another type, MDW-156 refused by the constructor, MDW-157 can't work here.
    """
    cls = _import(target, key)
    if cls.__name__ in UNFIT and cls.__module__.startswith("flwr."):
        raise ConfigError(
            "MDW-157",
            f"{key}.target={target} can't work: {UNFIT[cls.__name__]}.",
            "docs/strategies.md lists those that can.",
        )
    given = dict(args)
    accepted = _parameters(cls)
    _check(cls, accepted, given, key)
    for name, value in DEFAULTS.items():
        if name in accepted:
            given.setdefault(name, value)
    if isinstance(given.get("strategy"), Mapping):
        given["strategy"] = _nested(given["strategy"], f"{key}.args.strategy")
    try:
        return cls(**given)
    except MeadowError:
        raise
    except Exception as error:  # whatever a foreign constructor refuses its arguments with
        raise ConfigError(
            "MDW-156", f"{key}.args: {cls.__name__} refused them: {error}", "Correct them."
        ) from error


def _nested(inner: Mapping[str, Any], key: str) -> Strategy:
    if not set(inner) <= {"target", "args"} or "target" not in inner:
        raise ConfigError(
            "MDW-153",
            f"{key} has the keys {', '.join(map(str, inner))}.",
            "It takes `target` and, if any, `args`.",
        )
    return construct(str(inner["target"]), inner.get("args") or {}, key)


def _import(target: str, key: str) -> type[Strategy]:
    path, _, name = target.rpartition(":" if ".py:" in target else ".")
    try:
        module = _module_of_file(Path(path), key) if path.endswith(".py") else _module(path, key)
    except MeadowError:
        raise
    except Exception as error:  # whatever a foreign module does when it is imported
        raise ConfigError(
            "MDW-151",
            f"{key}.target={target}: importing {path or target!r} failed: {type(error).__name__}: {error}.",
            "Write an import path, for instance flwr.serverapp.strategy.FedAdam, or path/to/file.py:Class.",
        ) from error
    found = getattr(module, name, None)
    classes = [n for n, value in vars(module).items() if _is_strategy(value)]
    way_out = (
        nearest(name, classes)
        if classes
        else "Derive the class from flwr.serverapp.strategy.Strategy."
    )
    if found is None:
        raise ConfigError("MDW-151", f"{key}.target={target}: {path} has no {name!r}.", way_out)
    if not _is_strategy(found):
        raise ConfigError(
            "MDW-152",
            f"{key}.target={target} is no class that implements flwr.serverapp.strategy.Strategy.",
            way_out,
        )
    return typing.cast(type[Strategy], found)


def _module(path: str, key: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing there shadows an installed package
    importlib.invalidate_caches()
    return importlib.import_module(path)


def _module_of_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            "MDW-151",
            f"{key}.target: there is no file {path}.",
            f"Looked for it from {Path.cwd()}.",
        )
    name = f"strategy_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_strategy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Strategy) and not inspect.isabstract(value)


def _parameters(cls: type[Strategy]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


def _check(
    cls: type[Strategy],
    accepted: Mapping[str, inspect.Parameter],
    given: Mapping[str, Any],
    key: str,
) -> None:
    named = {
        n: p for n, p in accepted.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for name in given:
        if name not in named and not takes_any:
            raise ConfigError(
                "MDW-153",
                f"{key}.args.{name}: {cls.__name__} takes no such argument.",
                nearest(name, named),
            )
    missing = [
        n for n, p in named.items() if p.default is p.empty and n not in given and n not in DEFAULTS
    ]
    if missing:
        raise ConfigError(
            "MDW-154",
            f"{cls.__name__} needs {', '.join(missing)}.",
            f"Write {key}.args.{missing[0]}=VALUE.",
        )
    for name, value in given.items():
        if name in named and not _fits(value, _hint(cls, name)):
            raise ConfigError(
                "MDW-155",
                f"{key}.args.{name}={value!r:.60}: {cls.__name__} takes {_words(_hint(cls, name))}.",
                "Correct the value.",
            )


def _hint(cls: type[Strategy], name: str) -> Any:
    try:
        return typing.get_type_hints(cls.__init__).get(name, Any)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        return Any


def _fits(value: object, hint: Any) -> bool:
    """Return whether a plain value may be what a parameter asks for; doubtful annotations are given the benefit."""
    inner = bare(hint)
    if value is None:
        return inner is not hint or hint in (Any, type(None))
    if typing.get_origin(inner) is collections.abc.Callable:
        return False
    plain = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}.get(inner)
    return plain is None or (
        isinstance(value, plain) and (inner is bool or not isinstance(value, bool))
    )


def _words(hint: Any) -> str:
    if typing.get_origin(bare(hint)) is collections.abc.Callable:
        return "a function, which a configuration can't hold"
    return getattr(hint, "__name__", str(hint))


def _enough_nodes(strategy: Strategy, grid: Grid) -> None:
    """Flower's strategies sleep for ever where the grid shows fewer nodes than they ask for."""
    nodes = len(list(grid.get_node_ids()))
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        if (least := getattr(strategy, name, 0)) > nodes:
            raise ConfigError(
                "MDW-158",
                f"{type(strategy).__name__} waits for {least} silos ({name}), and {nodes} take part in this round.",
                f"Lower strategy.args.{name} where it can be set, or let more silos take part.",
            )
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        _enough_nodes(inner, grid)


def _is_counter(array: Array) -> bool:
    return np.dtype(array.dtype).kind in "iub"


def _only_counters(arrays: ArrayRecord) -> bool:
    return all(_is_counter(array) for array in arrays.values())


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    return (
        array if np.dtype(array.dtype) == dtype else Array(np.asarray(array.numpy().astype(dtype)))
    )

"""Any Flower strategy, from Flower, a package or one file: imported on the server, and hosted.

`target` is a dotted path (`flwr.serverapp.strategy.FedAdam`; the current folder counts as
importable) or a file and a class (`path/to/my_strategy.py:MyStrategy`). An argument named
`strategy`, which Flower's differential-privacy wrappers take, is itself a mapping of `target` and
`args`.
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
    dtypes.

    Counters (integer arrays, when there are floats beside them) do not pass through it: the largest
    of the replies is kept, as in `strategies.average`. What it returns is cast back to the model's
    dtypes (FedAdam and others return float64), so that every round sends the same layout.
    """

    def __init__(self, target: str, args: Mapping[str, Any]) -> None:
        self.inner = construct(target, args, "strategy")
        # Of the arrays as they were sent; renewed each round.
        self._layout: dict[str, np.dtype[Any]] = {}
        self._counters: dict[str, Array] = {}
        # What can't be kept in a checkpoint is refused before the run begins.
        state_of(self.inner)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the strategy's own messages, with the counters back in their place."""
        _enough_nodes(self.inner, grid)
        self._layout = {name: np.dtype(array.dtype) for name, array in arrays.items()}
        self._counters = {}
        if not _only_counters(arrays):
            self._counters = {n: array for n, array in arrays.items() if _is_counter(array)}
        floats = ArrayRecord({n: arrays[n] for n in arrays if n not in self._counters})
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
        """Return what the strategy makes of the replies, in the model's names, order and dtypes."""
        counters = dict(self._counters)
        good = [reply for reply in replies if not reply.has_error()]
        if not good:
            return None, None
        for reply in good:
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

    def _with_counters(self, message: Message, arrays: ArrayRecord) -> Message:
        if not self._counters:
            return message
        for key, sent in protocol.records(message.content, ArrayRecord).items():
            whole = {n: arrays[n] if n in self._counters else sent[n] for n in arrays}
            message.content[key] = ArrayRecord(whole)
        return message

    def _floats(self, record: ArrayRecord, counters: dict[str, Array]) -> ArrayRecord:
        """Return a reply's floats in the order they were sent; its counters raise `counters`."""
        differing = sorted(set(self._layout) ^ set(record))
        if differing:
            what = f"{differing[0]!r} was asked or answered, not both."
            raise WireError("MDW-660", what, "All must train the same model.")
        for name, largest in counters.items():
            counters[name] = Array(np.asarray(np.maximum(largest.numpy(), record[name].numpy())))
        return ArrayRecord({n: record[n] for n in self._layout if n not in self._counters})

    def _whole(self, arrays: ArrayRecord, counters: Mapping[str, Array]) -> ArrayRecord:
        if not self._layout or _only_counters(arrays):
            return arrays
        whole = ArrayRecord()
        for name, dtype in self._layout.items():
            whole[name] = counters[name] if name in counters else _cast(arrays[name], dtype)
        return whole


def construct(target: str, args: Mapping[str, Any], key: str) -> Strategy:
    """Import the class that `target` names and return an instance, its arguments checked.

    Raises ConfigError: MDW-151 nothing to import, MDW-152 not a Flower Strategy, MDW-153 an unknown
    argument, MDW-154 a missing one, MDW-155 one of another type, MDW-156 refused by the
    constructor, MDW-157 can't work here.
    """
    cls = _import(target, key)
    if cls.__name__ in UNFIT and cls.__module__.startswith("flwr."):
        what = f"{key}.target={target} can't work: {UNFIT[cls.__name__]}."
        raise ConfigError("MDW-157", what, "docs/strategies.md lists those that can.")
    arguments = dict(args)
    accepted = dict(inspect.signature(cls).parameters)
    _check(cls, accepted, arguments, key)
    for name, value in DEFAULTS.items():
        if name in accepted:
            arguments.setdefault(name, value)
    if isinstance(arguments.get("strategy"), Mapping):
        arguments["strategy"] = _nested(arguments["strategy"], f"{key}.args.strategy")
    try:
        return cls(**arguments)
    except MeadowError:
        raise
    except Exception as error:
        # Whatever a foreign constructor refuses its arguments with.
        what = f"{key}.args: {cls.__name__} refused them: {error}"
        raise ConfigError("MDW-156", what, "Correct them.") from error


def _nested(inner: Mapping[str, Any], key: str) -> Strategy:
    if not set(inner) <= {"target", "args"} or "target" not in inner:
        what = f"{key} has the keys {', '.join(map(str, inner))}."
        raise ConfigError("MDW-153", what, "It takes `target` and, if any, `args`.")
    return construct(str(inner["target"]), inner.get("args") or {}, key)


def _import(target: str, key: str) -> type[Strategy]:
    path, _, name = target.rpartition(":" if ".py:" in target else ".")
    try:
        module = _module_of_file(Path(path), key) if path.endswith(".py") else _module(path)
    except MeadowError:
        raise
    except Exception as error:
        # Whatever a foreign module does when it is imported.
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            "MDW-151",
            f"{key}.target={target}: importing {path or target!r} failed: {reason}.",
            "Write an import path, for instance flwr.serverapp.strategy.FedAdam, or FILE.py:Class.",
        ) from error
    cls = getattr(module, name, None)
    if _is_strategy(cls):
        return typing.cast(type[Strategy], cls)
    hint = "Derive the class from flwr.serverapp.strategy.Strategy."
    others = [n for n, value in vars(module).items() if _is_strategy(value)]
    if others:
        hint = nearest(name, others)
    if cls is None:
        raise ConfigError("MDW-151", f"{key}.target={target}: {path} has no {name!r}.", hint)
    what = f"{key}.target={target} does not implement flwr.serverapp.strategy.Strategy."
    raise ConfigError("MDW-152", what, hint)


def _module(path: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        # Last, so that nothing there shadows an installed package.
        sys.path.append(folder)
    importlib.invalidate_caches()
    return importlib.import_module(path)


def _module_of_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        what = f"{key}.target: there is no file {path}."
        raise ConfigError("MDW-151", what, f"Looked for it from {Path.cwd()}.")
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


def _check(
    cls: type[Strategy],
    accepted: Mapping[str, inspect.Parameter],
    arguments: Mapping[str, Any],
    key: str,
) -> None:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {n: parameter for n, parameter in accepted.items() if parameter.kind in by_name}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    for name in arguments:
        if name not in named and not takes_any:
            what = f"{key}.args.{name}: {cls.__name__} takes no such argument."
            raise ConfigError("MDW-153", what, nearest(name, named))
    required = [n for n, parameter in named.items() if parameter.default is parameter.empty]
    missing = [n for n in required if n not in arguments and n not in DEFAULTS]
    if missing:
        what = f"{cls.__name__} needs {', '.join(missing)}."
        raise ConfigError("MDW-154", what, f"Write {key}.args.{missing[0]}=VALUE.")
    for name, value in arguments.items():
        hint = _hint(cls, name)
        if name in named and not _fits(value, hint):
            what = f"{key}.args.{name}={value!r:.60}: {cls.__name__} takes {_words(hint)}."
            raise ConfigError("MDW-155", what, "Correct the value.")


def _hint(cls: type[Strategy], name: str) -> Any:
    try:
        return typing.get_type_hints(cls.__init__).get(name, Any)
    except (NameError, TypeError):
        # Annotations that only a type checker can resolve.
        return Any


def _fits(value: object, hint: Any) -> bool:
    """Return whether a plain value may be what a parameter asks for; in doubt it may."""
    inner = bare(hint)
    if value is None:
        return inner is not hint or hint in (Any, type(None))
    if typing.get_origin(inner) is collections.abc.Callable:
        return False
    plain = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}.get(inner)
    if plain is None:
        return True
    # In Python True is a whole number; as an argument it is a mistake.
    if isinstance(value, bool) and inner is not bool:
        return False
    return isinstance(value, plain)


def _words(hint: Any) -> str:
    if typing.get_origin(bare(hint)) is collections.abc.Callable:
        return "a function, which a configuration can't hold"
    return getattr(hint, "__name__", str(hint))


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


def _is_counter(array: Array) -> bool:
    return np.dtype(array.dtype).kind in "iub"


def _only_counters(arrays: ArrayRecord) -> bool:
    return all(_is_counter(array) for array in arrays.values())


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if np.dtype(array.dtype) == dtype:
        return array
    return Array(np.asarray(array.numpy().astype(dtype)))

"""What a strategy remembers between rounds, as records that a checkpoint can hold.

A strategy may offer it itself: `state() -> RecordDict` and `restore(RecordDict)`. For any other the
attributes of the instance are taken: numbers, text, arrays, random generators, Flower's records,
and lists, tuples, sets and dicts of these, nested strategies included. Functions, classes, modules
and loggers are code, not state. Anything else is refused, so that no run is resumed from half a
state.
"""

from __future__ import annotations

import json
import logging
import random
import types
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    QFedAvg,
    Strategy,
)
from flwr.serverapp.strategy.fedopt import FedOpt

from conf.errors import CheckpointError
from strategies.wire.objects import BFLOAT16

ARRAYS: Final = "arrays"
LAYOUT: Final = "layout"
JSON: Final = "json"

RENEWED: Final = (
    FedOpt,
    QFedAvg,
    DifferentialPrivacyServerSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
)
"""Flower's strategies that set `current_arrays` anew in each `configure_train`.

It is left out, so that the model is not stored twice. A class of ours names such attributes itself,
as `renewed`.
"""
_CODE: Final = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    logging.Logger,
)

Node = list[Any]
"""A value as JSON: [kind, content]; arrays are [kind, name in the array record]."""


@runtime_checkable
class Stateful(Protocol):
    """A strategy that keeps its own state."""

    def state(self) -> RecordDict:
        """Return everything that decides the next round."""

    def restore(self, state: RecordDict) -> None:
        """Continue from what `state` returned."""


def state_of(strategy: Strategy) -> RecordDict:
    """Return a strategy's state; empty where it has none.

    Raises CheckpointError MDW-550 for what can't be kept.
    """
    if isinstance(strategy, Stateful):
        return strategy.state()
    arrays: dict[str, Array] = {}
    layout = _attributes(strategy, arrays, type(strategy).__name__)
    if not layout:
        return RecordDict()
    return RecordDict(
        {ARRAYS: ArrayRecord(arrays), LAYOUT: ConfigRecord({JSON: json.dumps(layout)})}
    )


def restore(strategy: Strategy, state: RecordDict) -> None:
    """Let a newly built strategy continue from a state; an empty one leaves it as it is.

    Raises CheckpointError MDW-551 for the state of another strategy.
    """
    if not state:
        return
    if isinstance(strategy, Stateful):
        strategy.restore(state)
        return
    try:
        layout = json.loads(str(state.config_records[LAYOUT][JSON]))
        _apply(strategy, layout, state.array_records[ARRAYS])
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        what = f"The stored state is not one of {type(strategy).__name__}: {reason}."
        hint = "Resume with the strategy and the version that wrote it."
        raise CheckpointError("MDW-551", what, hint) from error


def _attributes(strategy: Strategy, arrays: dict[str, Array], path: str) -> dict[str, Node]:
    skipped = {"current_arrays"} if isinstance(strategy, RENEWED) else set()
    skipped |= set(getattr(strategy, "renewed", ()))
    return {
        name: _encode(value, arrays, f"{path}.{name}")
        for name, value in vars(strategy).items()
        if name not in skipped and not isinstance(value, _CODE)
    }


def _encode(value: Any, arrays: dict[str, Array], path: str) -> Node:  # noqa: C901  # a case a kind
    match value:
        case None | bool() | str():
            return ["plain", value]
        case np.generic():
            # Before int and float: np.float64 is a float, and not the same in arithmetic with
            # arrays.
            return ["scalar", _store(np.asarray(value), arrays, path)]
        case int() | float():
            return ["plain", value]
        case bytes():
            return ["bytes", value.hex()]
        case np.ndarray():
            return ["ndarray", _store(value, arrays, path)]
        case Array() if value.dtype == BFLOAT16:
            arrays[f"{len(arrays)}"] = value
            return ["array", f"{len(arrays) - 1}"]
        case Array():
            return ["array", _store(value.numpy(), arrays, path)]
        case ArrayRecord() | MetricRecord() | ConfigRecord():
            return [type(value).__name__, _pairs(value, arrays, path)]
        case np.random.Generator():
            return ["generator", _encode(value.bit_generator.state, arrays, path)]
        case random.Random():
            return ["random", _encode(value.getstate(), arrays, path)]
        case Strategy():
            return ["strategy", _attributes(value, arrays, path)]
    if type(value) is dict:
        return ["dict", _pairs(value, arrays, path)]
    if type(value) in (list, tuple, set):
        elements = [_encode(v, arrays, f"{path}.{i}") for i, v in enumerate(value)]
        return [type(value).__name__, elements]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CheckpointError(
        "MDW-550",
        f"{path} is a {kind}, which a checkpoint can't hold.",
        "Give the strategy `state() -> RecordDict` and `restore(RecordDict)`:"
        " docs/strategies.md shows how.",
    )


def _pairs(mapping: Any, arrays: dict[str, Array], path: str) -> list[list[Node]]:
    pairs = []
    for key, value in mapping.items():
        pairs.append([_encode(key, arrays, path), _encode(value, arrays, f"{path}.{key}")])
    return pairs


def _store(array: np.ndarray, arrays: dict[str, Array], path: str) -> str:
    if array.dtype.kind not in "fiub":
        what = f"{path} is an array of {array.dtype}."
        raise CheckpointError("MDW-550", what, "Only numbers can be kept.")
    name = f"{len(arrays)}"
    arrays[name] = Array(np.ascontiguousarray(array).reshape(array.shape))
    return name


def _apply(strategy: Strategy, layout: dict[str, Node], arrays: ArrayRecord) -> None:
    for name, (kind, content) in layout.items():
        held = vars(strategy).get(name)
        if kind == "strategy":
            if not isinstance(held, Strategy):
                raise TypeError(f"{name} is not a strategy")
            _apply(held, content, arrays)
        elif kind == "generator" and isinstance(held, np.random.Generator):
            held.bit_generator.state = _decode(content, arrays)
        elif kind == "random" and isinstance(held, random.Random):
            held.setstate(_decode(content, arrays))
        else:
            setattr(strategy, name, _decode([kind, content], arrays))


def _decode(node: Node, arrays: ArrayRecord) -> Any:  # noqa: C901  # a case a kind
    kind, content = node
    match kind:
        case "plain":
            return content
        case "scalar":
            return arrays[content].numpy()[()]
        case "bytes":
            return bytes.fromhex(content)
        case "ndarray":
            return np.array(arrays[content].numpy())
        case "array":
            return arrays[content]
        case "list" | "tuple" | "set":
            elements = [_decode(inner, arrays) for inner in content]
            return {"list": list, "tuple": tuple, "set": set}[kind](elements)
        case "dict":
            return _mapping(content, arrays)
        case "ArrayRecord":
            return ArrayRecord(_mapping(content, arrays))
        case "MetricRecord":
            return MetricRecord(_mapping(content, arrays))
        case "ConfigRecord":
            return ConfigRecord(_mapping(content, arrays))
    raise ValueError(f"unknown kind {kind!r}")


def _mapping(pairs: list[list[Node]], arrays: ArrayRecord) -> dict[Any, Any]:
    return {_decode(key, arrays): _decode(value, arrays) for key, value in pairs}

"""From plain values to the dataclasses, strictly: what a message, a file or a silo's settings may
say.

Nothing is interpolated, imported or guessed: a value has the annotated type or is refused.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

from conf.errors import ConfigError
from conf.fields import as_now
from conf.schema import EXTERNAL, is_outside
from conf.schema_keys import bare, hints, nearest, unknown_key, variants

T = TypeVar("T")

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def from_plain(
    cls: type[T], raw: object, *, key: str = "", where: str, complete: bool = False
) -> T:
    """Return an instance of the dataclass `cls` with the values of the mapping `raw`.

    `key` is where the mapping sits (`federation.silos.north`) and `where` what was read (a file,
    a message), both for the error. Absent fields keep their defaults, unless `complete` asks for
    every one.
    Raises ConfigError: MDW-101 for an unknown or missing key, MDW-103 for a value of another type.
    """
    mapping = _mapping(raw, key, where)
    valid = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # TypeVar can't say dataclass
    for name in mapping:
        if name not in valid:
            raise unknown_key(_join(key, name), valid, where)
    missing = sorted(_required(valid, complete) - set(mapping))
    if missing:
        raise ConfigError(
            "MDW-101",
            f"{where} lacks the key {_join(key, missing[0])}.",
            "Use the same version of Meadow on both sides.",
        )
    values = {}
    for name, value in mapping.items():
        choices = variants(cls, name)
        at = _join(key, name)
        if choices:
            chosen = _variant(choices, value, at, where)
            values[name] = from_plain(chosen, value, key=at, where=where, complete=complete)
        else:
            value = as_now(value, valid[name].metadata)
            values[name] = _value(hints(cls)[name], value, at, where, complete)
        keys_of = valid[name].metadata.get("keys_of")
        if keys_of is not None:
            # A mapping of some keys of another dataclass: checked as if it were one, kept as it is.
            from_plain(keys_of, value, key=at, where=where)
    return cls(**values)


def _required(valid: Mapping[str, Field[Any]], complete: bool) -> set[str]:
    if complete:
        return set(valid)
    return {name for name, f in valid.items() if f.default is f.default_factory is MISSING}


def _variant(choices: dict[str, type[Any]], raw: object, key: str, where: str) -> type[Any]:
    name = _mapping(raw, key, where).get("name")
    if isinstance(name, str) and is_outside(name) and EXTERNAL in choices:
        return choices[EXTERNAL]
    if not isinstance(name, str) or name not in choices:
        raise ConfigError(
            "MDW-102",
            f"{key}.name ({where}): there is no {key} {name!r}.",
            nearest(str(name), choices),
        )
    return choices[name]


def _value(hint: Any, value: object, key: str, where: str, complete: bool) -> Any:
    inner = bare(hint)
    optional = inner is not hint or inner is Any
    if value is None and optional:
        return None
    if inner is Any:
        return _plain(value, key, where)
    if is_dataclass(inner):
        kind = typing.cast(type[Any], inner)
        return from_plain(kind, value, key=key, where=where, complete=complete)
    origin = typing.get_origin(inner)
    if origin is list:
        (element,) = typing.get_args(inner)
        if not isinstance(value, list):
            raise _wrong(key, value, "list", where)
        return [_value(element, v, f"{key}[{i}]", where, complete) for i, v in enumerate(value)]
    if origin is dict:
        _, element = typing.get_args(inner)
        items = _mapping(value, key, where).items()
        return {k: _value(element, v, _join(key, k), where, complete) for k, v in items}
    return _scalar(inner, value, key, where)


def _scalar(kind: Any, value: object, key: str, where: str) -> Any:
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise _wrong(key, "a whole number of hundreds of digits", "number", where) from None
    if type(value) is not kind:
        raise _wrong(key, value, _WORDS[kind], where)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(key, value, "finite number", where)
    return value


def _plain(value: object, key: str, where: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v, _join(key, k), where) for k, v in _mapping(value, key, where).items()}
    if isinstance(value, list):
        return [_plain(v, f"{key}[{i}]", where) for i, v in enumerate(value)]
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise _wrong(key, value, "plain value", where)


def _mapping(raw: object, key: str, where: str) -> Mapping[str, object]:
    if not isinstance(raw, Mapping) or not all(isinstance(k, str) for k in raw):
        raise _wrong(key, raw, "mapping of names to values", where)
    return raw


def _wrong(key: str, value: object, wanted: str, where: str) -> ConfigError:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    at = f"{key} ({where})" if key else where
    return ConfigError("MDW-103", f"{at}: {shown} is not a {wanted}.", "Correct the value.")


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name

"""The valid keys of a configuration, read off the dataclasses, and the nearest one to a misspelt
word.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from conf.errors import ConfigError
from conf.schema import VARIANTS, Conf, RunScope

RENAMED: dict[str, tuple[str, ...]] = {"data.held_out": ("data.validation", "data.test")}
"""Keys that had another name in an earlier release, with what replaces each, all dotted: {"run.old":
("run.new",)}.

A stored configuration or a command that has one is refused, and the successors are named.
"""


def nearest(word: str, names: Iterable[str]) -> str:
    """Return what to do about a misspelt `word`: the nearest of the valid `names`, or all of them."""
    valid = sorted(names)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Valid here: {', '.join(valid) or 'nothing'}."


def unknown_key(key: str, valid: Iterable[str], where: str) -> ConfigError:
    """Return the error for a `key` (dotted) that is none of the `valid` names at its level."""
    key = key if len(key) <= 100 else key[:97] + "..."
    successors = _successors(key)
    if successors:
        why = f"{key} ({where}): this key was renamed."
        return ConfigError("MDW-101", why, f"It is now {' and '.join(successors)}.")
    parent, _, name = key.rpartition(".")
    reason = f"'{parent}' has no key '{name}'" if parent else f"there is no key or group '{name}'"
    return ConfigError("MDW-101", f"{key} ({where}): {reason}.", nearest(name, valid))


def _successors(key: str) -> tuple[str, ...]:
    """Return what replaces a key: at its own place, or in a silo's settings
    (`federation.silos.north.data.held_out`).
    """
    for old, successors in RENAMED.items():
        if key == old or key.endswith(f".{old}"):
            return successors
    return ()


def hints(cls: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass, evaluated."""
    return _hints(cls)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def bare(hint: Any) -> Any:
    """Return `X` for the annotation `X | None`, any other annotation as it is."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def variants(owner: type[Any], name: str) -> dict[str, type[Any]]:
    """Return the classes by name that a field may hold: those of a group of variants, or none."""
    if owner not in (Conf, RunScope):
        return {}
    return VARIANTS.get(name, {})


def check_key(key: str, where: str) -> bool:
    """Check that the schema has `key`; return whether it lies in a mapping that takes new names.

    `strategy.args.eta` does, `run.rounds` does not. Raises ConfigError (MDW-101) for a key that no
    class of the schema has, naming the nearest.
    """
    # Where the key passes a group of variants (`model`, `strategy`), any of their classes may have
    # it.
    classes: list[Any] = [Conf]
    path = key.split(".")
    for depth, name in enumerate(path):
        valid = {f for cls in classes for f in hints(cls)}
        if name not in valid:
            raise unknown_key(".".join(path[: depth + 1]), valid, where)
        inner, keys_of = _inside(classes, name)
        if typing.get_origin(inner) is dict:
            at = ".".join(path[: depth + 1])
            _check_in_mapping(path[depth + 1 :], inner, keys_of, at, where)
            return True
        classes = list(variants(classes[0], name).values()) or [inner]
        if not is_dataclass(inner):
            if depth + 1 < len(path):
                raise unknown_key(key, (), where)
            return False
    return False


def _inside(classes: list[Any], name: str) -> tuple[Any, Any]:
    owner = next(cls for cls in classes if name in hints(cls))
    metadata = next(f.metadata for f in fields(owner) if f.name == name)
    return bare(hints(owner)[name]), metadata.get("keys_of")


def _check_in_mapping(rest: list[str], mapping: Any, keys_of: Any, at: str, where: str) -> None:
    if not rest:
        return
    if keys_of is not None and rest[0] not in hints(keys_of):
        raise unknown_key(f"{at}.{rest[0]}", hints(keys_of), where)
    inner = typing.get_args(mapping)[1]
    if is_dataclass(inner) and len(rest) > 1:
        _check_below(inner, rest[1:], f"{at}.{rest[0]}", where)


def _check_below(cls: Any, rest: list[str], at: str, where: str) -> None:
    if rest[0] not in hints(cls):
        raise unknown_key(f"{at}.{rest[0]}", hints(cls), where)
    inner, keys_of = _inside([cls], rest[0])
    if typing.get_origin(inner) is dict:
        _check_in_mapping(rest[1:], inner, keys_of, f"{at}.{rest[0]}", where)


def owners(key: str) -> Iterator[str]:
    """Yield the group choices that have `key` where the chosen one has not (`strategy.mu`:
    fedprox).
    """
    group, _, name = key.partition(".")
    for choice, cls in VARIANTS.get(group, {}).items():
        if name.split(".")[0] in hints(cls):
            yield f"{group}={choice}"

"""Every key of the configuration with its text, read off the schema: for help, docs, completion.

`python -m conf.key_list` prints docs/configuration.md; a test holds the two together.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, is_dataclass
from typing import Any

from conf.schema import RUN_SCOPE, Conf
from conf.schema_keys import bare, hints, variants

_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}

_INTRODUCTION = """# Keys of the configuration

Promise: every key that a run, a federation or a silo can be told is on this page, with what it
takes and what it is when nothing is said. It is written from `conf/schema/` by
`python -m conf.key_list`, and a test compares the two.

A key is given as `KEY=VALUE`, a whole file of a group as `GROUP=NAME`:
`meadow simulate strategy=fedprox strategy.mu=0.01 run.rounds=20`. An unknown key or a wrong value is
refused before anything starts ([errors](errors.md)). `null` means that a key is left open.

Files of your own add choices to groups: with `--config-dir FOLDER`, `FOLDER/experiment/mine.yaml` is
`experiment=mine`. They are read as YAML 1.2, as the file of a federation or a silo is: `010` is 10,
`1e-3` is a number, and `on`, `yes` and `1_000` are text.
"""


@dataclass(frozen=True)
class Key:
    """One key: its dotted path, what it takes, its default in the schema, and its text."""

    path: str
    kind: str
    default: Any
    help: str
    values: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    is_text: bool = False
    is_list: bool = False
    only: str = ""
    """The choice that has it, such as `strategy=fedprox`; empty where every choice does."""


def keys() -> list[Key]:
    """Return every key, in the order of the schema; NAME stands for a silo's name."""
    return list(_keys_of(Conf, ""))


def _keys_of(cls: type[Any], above: str, only: str = "") -> Iterator[Key]:
    for f in dataclasses.fields(cls):
        path = f"{above}{f.name}"
        inner = bare(hints(cls)[f.name])
        choices = variants(cls, f.name)
        if choices:
            yield from _keys_of_variants(choices, path)
        elif is_dataclass(inner):
            yield from _keys_of(typing.cast(type[Any], inner), f"{path}.", only)
        else:
            yield from _keys_of_field(f, hints(cls)[f.name], path, only)


def _keys_of_variants(choices: dict[str, type[Any]], group: str) -> Iterator[Key]:
    """Yield the keys that every choice has, then each one's own."""
    first, *others = choices.values()
    common = {f.name for f in dataclasses.fields(first)}
    for other in others:
        common &= {f.name for f in dataclasses.fields(other)}
    for key in _keys_of(first, f"{group}."):
        if key.path.split(".")[1] in common:
            is_name = key.path == f"{group}.name"
            yield dataclasses.replace(key, values=tuple(choices)) if is_name else key
    for choice, cls in choices.items():
        for key in _keys_of(cls, f"{group}.", f"{group}={choice}"):
            if key.path.split(".")[1] not in common:
                yield key


def _keys_of_field(f: Field[Any], hint: Any, path: str, only: str) -> Iterator[Key]:
    inner = bare(hint)
    entry = typing.get_args(inner)[1] if typing.get_origin(inner) is dict else None
    if is_dataclass(entry):
        yield from _keys_of(typing.cast(type[Any], entry), f"{path}.NAME.", only)
        return
    metadata = f.metadata
    yield Key(
        path=path,
        kind=_kind(hint, metadata),
        default=_default(f),
        help=metadata.get("help", ""),
        values=tuple(metadata.get("one_of", ())),
        also=tuple(metadata.get("also", ())),
        is_text=inner is str,
        is_list=typing.get_origin(inner) is list,
        only=only,
    )


def _default(f: Field[Any]) -> Any:
    if f.default_factory is not MISSING:
        return f.default_factory()
    return f.default


def _kind(hint: Any, metadata: types.MappingProxyType[Any, Any]) -> str:
    """Return in words what a key takes, with its limits."""
    inner = bare(hint)
    if typing.get_origin(inner) is list:
        (element,) = typing.get_args(inner)
        return f"list of {_KINDS.get(element, 'mapping')}s" + _limits(metadata)
    if typing.get_origin(inner) is dict:
        return "names with values"
    if "wanted" in metadata:
        return str(metadata["wanted"])
    return _KINDS[inner] + _limits(metadata)


def _limits(metadata: types.MappingProxyType[Any, Any]) -> str:
    words = {"above": "above", "at_least": "at least", "at_most": "at most"}
    limits = [
        f"{said} {metadata[name]}" for name, said in words.items() if metadata.get(name) is not None
    ]
    return f", {', '.join(limits)}" if limits else ""


def written(value: Any) -> str:
    """Return a value as a person writes it in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return "{}" if value == {} else str(value)


def page(conf: Conf) -> str:
    """Return docs/configuration.md; `conf` is what a run is when nothing is said."""
    blocks = [_INTRODUCTION]
    for group in dataclasses.fields(Conf):
        blocks.append(_table(group, conf))
    return "\n".join(blocks)


def _table(group: Field[Any], conf: Conf) -> str:
    about = _about(group)
    travels = " These keys travel to the silos." if group.name in RUN_SCOPE else ""
    rows = [
        f"## {group.name}",
        f"{about}{travels}",
        "",
        "| key | takes | default | |",
        "|---|---|---|---|",
    ]
    for key in keys():
        if key.path.split(".")[0] == group.name:
            rows.append(_row(key, conf))
    return "\n".join([*rows, ""])


def _about(group: Field[Any]) -> str:
    """Return the first paragraph of a group's docstring."""
    inner = bare(hints(Conf)[group.name])
    return " ".join((inner.__doc__ or "").split("\n\n")[0].split())


def _row(key: Key, conf: Conf) -> str:
    takes = ", ".join(f"`{one}`" for one in key.values) or key.kind
    default = written(_found(conf, key))
    about = f"{key.help} (`{key.only}`)" if key.only else key.help
    cells = [f"`{key.path}`", takes, f"`{default}`" if default else "", about]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _found(conf: Any, key: Key) -> Any:
    """Return a key's value in a configuration, its default where the configuration has no such
    key.
    """
    value = conf
    for name in key.path.split("."):
        if not hasattr(value, name):
            return key.default
        value = getattr(value, name)
    return value


if __name__ == "__main__":
    from conf.compose import compose

    print(page(compose([])), end="")

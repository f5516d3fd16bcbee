"""What travels to a silo, and what a silo accepts: plain values of the run-scoped groups, as
canonical JSON.

A message is another party's text. It is measured before it is parsed, and its values are checked
one by one against the dataclasses; nothing in it is interpolated, imported or instantiated.
Composing a foreign configuration instead would disclose secrets (`${oc.env:...}`) and run code
(`_target_`, `hydra.searchpath`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn

from conf.errors import ConfigError
from conf.parse import from_plain
from conf.schema import RUN_SCOPE, Conf, ExternalStrategyConf, RunConf, RunScope
from conf.targets import known
from conf.validate import check_limits
from strategies.silo_half import SiloHalf

MAX_BYTES: Final = 64 * 1024
"""The longest text that a silo parses; a usual one has about two thousand bytes."""
MAX_DEPTH: Final = 12
"""The deepest nesting of mappings and lists that a silo reads."""

OUTSIDE: Final = ("task", "model", "strategy")
"""The groups that may name code from outside this tree."""

_WHERE: Final = "the run's configuration in a message"
_ELSEWHERE: Final = tuple(f.name for f in dataclasses.fields(Conf) if f.name not in RUN_SCOPE)


def pack(conf: Conf) -> str:
    """Return the run-scoped groups as canonical JSON: keys sorted, no spaces, ASCII, no NaN.

    Blanked are the values that are paths on the server's machine: they mean nothing at a silo, tell
    it about a disk that is not its own, and would change the digest when a run is resumed or its
    folder moved. They are `run.output`, `run.resume`, `model.init` (the first weights travel as
    arrays), and the `target` of a task, a model or a strategy, of which name and digest are enough.
    Raises ConfigError (MDW-120) when the text is longer than a silo would parse.
    """
    scope = {name: dataclasses.asdict(getattr(conf, name)) for name in RUN_SCOPE}
    scope["run"].update(output=RunConf().output, resume=None)
    scope["model"].update(init=None)
    for group in OUTSIDE:
        if "target" in scope[group]:
            scope[group].update(target="")
    if isinstance(conf.strategy, ExternalStrategyConf) and not _has_silo_half(conf.strategy):
        # A silo executes nothing of it, so that no silo has to have it.
        scope["strategy"].update(code="")
    text = json.dumps(scope, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # The silo's own check: what it would refuse never leaves.
    unpack(text)
    return text


def _has_silo_half(conf: ExternalStrategyConf) -> bool:
    if not conf.code:
        return False
    cls = known.loaded("strategy", conf.name, conf.code)
    return getattr(cls, "silo_half", SiloHalf) is not SiloHalf


def digest(text: str) -> str:
    """Return the SHA-256 of a packed configuration, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def unpack(text: str) -> RunScope:
    """Return the run-scoped configuration of a message.

    Raises ConfigError: MDW-120 too long or not JSON, MDW-121 a key that has no business here,
    MDW-122 a value that would be interpolated or instantiated somewhere, MDW-101 to MDW-104 as in
    a file.
    """
    raw = _parse(text)
    if isinstance(raw, Mapping):
        _refuse_foreign_groups(raw)
        _refuse_places(raw)
    for key, name, value in _walk(raw):
        _refuse_live_text(key, name, value)
    scope = from_plain(RunScope, raw, where=_WHERE, complete=True)
    check_limits(scope, "", lambda key: _WHERE)
    return scope


@lru_cache(maxsize=8)
def unpacked(text: str) -> RunScope:
    """Return what `unpack` does, parsed once for all messages of a run that bring the same text.

    All of them get one object, which nobody changes.
    """
    return unpack(text)


def _parse(text: str) -> Any:
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        what = f"{_WHERE} is longer than {MAX_BYTES} bytes."
        raise ConfigError("MDW-120", what, "Shorten strategy.args.")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        what = f"{_WHERE} is not plain JSON: {e}."
        raise ConfigError("MDW-120", what, "The run must be started anew.") from e


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_foreign_groups(raw: Mapping[str, Any]) -> None:
    for name in raw:
        if name in _ELSEWHERE:
            what = f"{name} ({_WHERE}) is not the run's to set."
            raise ConfigError("MDW-121", what, "It belongs to the silo or to the server.")


def _refuse_places(raw: Mapping[str, Any]) -> None:
    for group in OUTSIDE:
        own = raw.get(group)
        if isinstance(own, Mapping) and own.get("target"):
            what = f"{group}.target ({_WHERE}): a message names code, and never says where it is."
            raise ConfigError("MDW-122", what, "Only the silo's own job does.")


def _walk(root: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (dotted key, its last name, value) of everything inside `root`.

    Refuses what is nested too deeply. A list of what is left to do instead of recursion: a message
    must not choose how deep our stack grows.
    """
    todo = [("", 0, root)]
    while todo:
        key, depth, value = todo.pop()
        if depth > MAX_DEPTH:
            what = f"{_WHERE} is nested deeper than {MAX_DEPTH} levels."
            raise ConfigError("MDW-120", what, "Flatten strategy.args.")
        for name, inner in _items(value):
            at = f"{key}.{name}" if key else str(name)
            yield at, str(name), inner
            todo.append((at, depth + 1, inner))


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list):
        return enumerate(value)
    return ()


def _refuse_live_text(key: str, name: str, value: Any) -> None:
    if name.startswith("_") or "." in name or name == "hydra":
        what = f"{key} ({_WHERE}): a key like '{name}' steers Hydra, and no message may."
        raise ConfigError("MDW-122", what, "Remove it.")
    if "${" in name or (isinstance(value, str) and "${" in value):
        what = f"{key} ({_WHERE}) holds an interpolation."
        raise ConfigError("MDW-122", what, "Resolve it before it travels.")

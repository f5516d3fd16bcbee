"""Plain arguments, checked against what a class or function takes before it is called."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from conf.errors import ConfigError, MeadowError
from conf.schema_keys import nearest

_PLAIN: Final[dict[Any, tuple[type, ...]]] = {
    float: (int, float),
    int: (int,),
    str: (str,),
    bool: (bool,),
}
_LISTS: Final = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS: Final = (dict, collections.abc.Mapping)
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def arguments_of(chosen: Any, of_all: type[Any]) -> dict[str, Any]:
    """Return the plain arguments that a configuration has for its chosen model or strategy.

    From outside this tree they are `args`; of this tree's own they are the fields that its
    dataclass adds to those of every choice (`of_all`).
    """
    if hasattr(chosen, "args"):
        return dict(chosen.args)
    common = {f.name for f in fields(of_all)}
    return {f.name: getattr(chosen, f.name) for f in fields(chosen) if f.name not in common}


def call(
    of: Callable[..., Any],
    args: Mapping[str, Any],
    key: str,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Return what a class or function makes of plain arguments.

    `key` is where they are written (`task.args`); `given` is added where it takes an argument of
    that name and none is written. Raises ConfigError: MDW-173 to MDW-175 of `check`, MDW-176 where
    it refuses them.
    """
    arguments = dict(args)
    accepted = parameters(of)
    check(of, arguments, key, given or ())
    for name, value in (given or {}).items():
        if name in accepted:
            arguments.setdefault(name, value)
    try:
        return of(**arguments)
    except MeadowError:
        raise
    except Exception as error:
        # Whatever a foreign constructor refuses its arguments with.
        what = f"{key}: {of.__name__} refused them: {type(error).__name__}: {error}"
        raise ConfigError("MDW-176", what, "Correct them.") from error


def check(
    of: Callable[..., Any], args: Mapping[str, Any], key: str, given: Iterable[str] = ()
) -> None:
    """Hold arguments to a signature; those named in `given` need not be written.

    Raises ConfigError: MDW-173 an unknown one, MDW-174 a missing one, MDW-175 one of another type.
    """
    accepted = parameters(of)
    named = {name: one for name, one in accepted.items() if one.kind in _BY_NAME}
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
    for name in args:
        if name not in named and not takes_any:
            what = f"{key}.{name}: {of.__name__} takes no such argument."
            raise ConfigError("MDW-173", what, nearest(name, named))
    required = [name for name, one in named.items() if one.default is one.empty]
    missing = [name for name in required if name not in args and name not in set(given)]
    if missing:
        what = f"{of.__name__} needs {', '.join(missing)}."
        raise ConfigError("MDW-174", what, f"Write {key}.{missing[0]}=VALUE.")
    hints = _hints(of)
    for name, value in args.items():
        hint = hints.get(name, Any)
        if name in named and not fits(value, hint):
            what = f"{key}.{name}={value!r:.60}: {of.__name__} takes {_words(hint)}."
            raise ConfigError("MDW-175", what, "Correct the value.")


def parameters(of: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what a class or function takes, by name; of one in C that does not say, anything."""
    try:
        return dict(inspect.signature(of).parameters)
    except ValueError:
        return {"args": inspect.Parameter("args", inspect.Parameter.VAR_KEYWORD)}


def _hints(of: Callable[..., Any]) -> dict[str, Any]:
    # The methods that make an instance are a class's own, or a parent's.
    makes = of.__init__ if isinstance(of, type) else of  # type: ignore[misc]  # of this very class
    try:
        return typing.get_type_hints(makes)
    except (NameError, TypeError, AttributeError):
        # Annotations that only a type checker can resolve.
        return {}


def fits(value: object, hint: Any) -> bool:
    """Return whether a plain value may be what a parameter asks for; in doubt it may."""
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if hint in (Any, None, type(None)):
        return hint is Any or value is None
    if value is None or origin is collections.abc.Callable:
        return False
    if origin in _LISTS:
        return _all_fit(value, inner)
    if origin in _MAPPINGS or hint in _MAPPINGS:
        return isinstance(value, Mapping)
    if hint in _LISTS:
        return isinstance(value, list)
    plain = _PLAIN.get(hint)
    if plain is None:
        return True
    # In Python True is a whole number; as an argument it is a mistake.
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, plain)


def _all_fit(value: object, inner: tuple[Any, ...]) -> bool:
    """Return whether a list has elements of the kinds that `list[X]` or `tuple[X, Y]` names."""
    if not isinstance(value, list):
        return False
    if len(inner) == 1 or (len(inner) == 2 and inner[1] is Ellipsis):
        return all(fits(one, inner[0]) for one in value)
    same = len(value) == len(inner)
    return same and all(fits(one, kind) for one, kind in zip(value, inner, strict=True))


def _words(hint: Any) -> str:
    bare = [one for one in typing.get_args(hint) if one is not type(None)] or [hint]
    if any(typing.get_origin(one) is collections.abc.Callable for one in [hint, *bare]):
        return "a function, which a configuration can't hold"
    if typing.get_args(hint):
        return str(hint).replace("typing.", "")
    return getattr(hint, "__name__", str(hint))

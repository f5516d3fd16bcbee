"""From targets to names and digests, when a configuration is composed; nothing is imported here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from conf.code_digest import OWN_FOLDERS
from conf.errors import ConfigError, SiloError
from conf.schema import Conf, is_outside
from conf.schema_keys import nearest
from conf.targets import known
from conf.targets.place import INIT, TREE, Place, bound_names, locate, nothing
from conf.targets.sources import Sources, read

CHANGED: Final = "MDW-177"
_NOT_NAMES: Final = ("base", INIT)


def resolved(conf: Conf, where: Callable[[str], str]) -> Conf:
    """Return the configuration in which each target has its name and the digest of its code.

    A digest that is there already, as in a stored run, must be that of the code that is there now.
    Raises ConfigError: MDW-170, MDW-171, MDW-177, and MDW-102 for a task that is nowhere.
    """
    changes = {}
    for group in known.GROUPS:
        own = getattr(conf, group)
        if hasattr(own, "target"):
            changes[group] = _resolved(group, own, where(f"{group}.target"))
    return dataclasses.replace(conf, **changes)


def tree_names(group: str) -> list[str]:
    """Return the names of this tree's own tasks, models or strategies."""
    files = (TREE / OWN_FOLDERS[group]).glob("*.py")
    return sorted(file.stem for file in files if file.stem not in _NOT_NAMES)


def _resolved(group: str, own: Any, where: str) -> Any:
    if own.target:
        return _of_target(group, own, own.target, "", where)
    names = tree_names(group)
    # A copy of `conf` alone composes too: what goes with it is not there to be looked at.
    if own.name in names or not (names or is_outside(own.name)):
        return own
    points = known.points_named(group, own.name)
    if len(points) == 1:
        ((name, target),) = points.items()
        return dataclasses.replace(_of_target(group, own, target, name, where), target="")
    if points:
        what = f"{group}.name={own.name} ({where}): several installed packages have one."
        raise ConfigError("MDW-102", what, f"Write one of: {', '.join(sorted(points))}.")
    if is_outside(own.name):
        _check_listed(group, own, where)
        return own
    what = f"{group}.name={own.name} ({where}): there is no {group} of that name."
    raise ConfigError("MDW-102", what, nearest(own.name, [*names, *known.point_names(group)]))


def _of_target(group: str, own: Any, target: str, name: str, where: str) -> Any:
    key = f"{group}.target"
    place = locate(target, key)
    sources = read(place, key)
    _check_attribute(place, sources, key)
    name = name or place.name
    if own.code and own.code != sources.digest:
        what = f"{group} {name} ({where}) is of {own.code[:12]}; the code is now {sources.digest[:12]}."
        hint = f"Bring {Path(place.file).name} back as it was, or start a new run."
        raise ConfigError(CHANGED, what, hint)
    entry = known.Known(group, name, sources.digest, place.target)
    known.add(entry)
    return dataclasses.replace(own, name=name, code=entry.code, target=entry.target)


def _check_listed(group: str, own: Any, where: str) -> None:
    """Raise ConfigError MDW-177 for a stored run's code of which this process knows no place."""
    try:
        known.find(group, own.name, own.code)
    except SiloError as error:
        what = (
            f"{group}.name={own.name} ({where}) is from outside this tree, and nothing says where."
        )
        hint = f"Add {group}.target=FILE.py:{own.name.rpartition('.')[2]}."
        raise ConfigError(CHANGED, what, hint) from error


def _check_attribute(place: Place, sources: Sources, key: str) -> None:
    source = sources.files.get(place.module)
    if source is None:
        return
    names = bound_names(source.syntax)
    if names is not None and place.attribute not in names:
        what = f"{key}={place.target}: {place.file.name} has no {place.attribute!r}."
        raise nothing(what, nearest(place.attribute, names))

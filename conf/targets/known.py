"""What this process may resolve: its own list of outside code, by group, name and digest.

A message names a task, a model or a strategy; from where it is imported, only this list says. In it
are what this process composed itself, what its job was submitted with (`MEADOW_OUTSIDE`), and the
entry points of the packages that are installed here.

    MDW-346 a name that is not in the list    MDW-347 another digest than the list's
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any, Final

from conf.errors import ConfigError, SiloError
from conf.targets.modules import imported
from conf.targets.place import locate
from conf.targets.sources import Sources, read

VARIABLE: Final = "MEADOW_OUTSIDE"
"""Environment of a job or worker: its list as JSON."""
GROUPS: Final = {"task": "meadow.tasks", "model": "meadow.models", "strategy": "meadow.strategies"}
"""The kinds, and the entry points of installed packages where their names are."""
UNLISTED: Final = "MDW-346"
OTHER_CODE: Final = "MDW-347"


@dataclass(frozen=True)
class Known:
    """One entry of the list: what is meant by a name of a group, with a digest."""

    group: str
    name: str
    code: str
    target: str
    """Where it is on this machine; this part never leaves it."""


_lock: Final = threading.Lock()
_own: dict[tuple[str, str, str], Known] = {}


def add(entry: Known) -> None:
    """Put what this process itself composed, or was started with, into its list."""
    with _lock:
        _own[entry.group, entry.name, entry.code] = entry


def exported() -> str:
    """Return this process's list as the text that a worker of its own gets as `VARIABLE`."""
    return to_text(_listed())


def to_text(entries: Iterable[Known]) -> str:
    """Return entries as the text of `VARIABLE`."""
    return json.dumps([asdict(entry) for entry in entries], sort_keys=True)


def find(group: str, name: str, code: str) -> Known:
    """Return the entry for what a run names.

    Raises SiloError: MDW-346 where the list has no such name, MDW-347 where it has other code.
    """
    entries = _listed()
    for entry in entries:
        if (entry.group, entry.name, entry.code) == (group, name, code):
            return entry
    same_name = [e.code for e in entries if (e.group, e.name) == (group, name)]
    point = _entry_points(group).get(name)
    if point is not None:
        here = sources_of(point, f"{group}.name={name}").digest
        if here == code:
            return Known(group, name, code, point)
        same_name.append(here)
    if same_name:
        raise _other(group, name, code, same_name)
    raise SiloError(
        UNLISTED,
        f"The run's {group} is {name[:140]} ({code[:12]}), which this job was not submitted with.",
        f"Start the job again with {group}.target=FILE.py:Class, or install the package that has it;"
        " a process that Flower starts (flwr run, flower-supernode) can have it from a package"
        " alone, by the name of its entry point.",
    )


def given() -> tuple[Known, ...]:
    """Return the list that this process's job was started with."""
    return from_text(os.environ.get(VARIABLE, ""))


def points_named(group: str, name: str) -> dict[str, str]:
    """Return the entry points of installed packages that a name may mean: targets by whole name.

    `wine` means the `acme.wine` of a package acme, unless another one has a `wine` as well.
    """
    points = _entry_points(group)
    return {whole: points[whole] for whole in points if name in (whole, whole.partition(".")[2])}


def point_names(group: str) -> list[str]:
    """Return the whole names that installed packages offer for a group."""
    return sorted(_entry_points(group))


def sources_of(target: str, key: str) -> Sources:
    """Return the files of a target; raises ConfigError MDW-170 or MDW-171."""
    return read(locate(target, key), key)


def loaded(group: str, name: str, code: str) -> Any:
    """Return the class or function that a run names; imported once.

    Raises SiloError MDW-346 or MDW-347, also where a file has changed since it was listed, and
    ConfigError MDW-170 or MDW-171.
    """
    entry = find(group, name, code)
    return _loaded(entry)


@cache
def _loaded(entry: Known) -> Any:
    key = f"{entry.group}.target"
    sources = sources_of(entry.target, key)
    if sources.digest != entry.code:
        raise _other(entry.group, entry.name, entry.code, [sources.digest])
    # It stands on this module.
    from conf.targets.requirements import check

    check(entry, sources)
    return imported(sources, key)


def _other(group: str, name: str, code: str, here: list[str]) -> SiloError:
    ours = ", ".join(one[:12] for one in here)
    return SiloError(
        OTHER_CODE,
        f"The run's {group} {name[:140]} is of {code[:12] or 'no digest'}, and this job's of {ours}.",
        "Use the same file at the orchestrator and at every silo, and start the jobs again with it.",
    )


def _listed() -> list[Known]:
    with _lock:
        own = list(_own.values())
    return [*own, *given()]


@cache
def from_text(text: str) -> tuple[Known, ...]:
    """Return the list that a text of `VARIABLE` holds; raises ConfigError MDW-170 for none."""
    if not text:
        return ()
    try:
        return tuple(Known(**{str(k): str(v) for k, v in one.items()}) for one in json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            "MDW-170", f"{VARIABLE} is not a list of targets: {error}.", "Launch the job again."
        ) from None


@cache
def _entry_points(group: str) -> dict[str, str]:
    found = {}
    for point in metadata.entry_points(group=GROUPS[group]):
        module, _, attribute = point.value.partition(":")
        package = module.strip().split(".")[0]
        found[f"{package}.{point.name}"] = f"{module.strip()}.{attribute.strip()}"
    return found

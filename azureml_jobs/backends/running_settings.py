"""What a run can't change at a running silo: its owner's settings, data, device and threads, are
those it started with.

They never travel with a run (`strategies.wire.run_config`), so that a run which asks for others
would get the old ones without a word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from conf.overrides import parse
from conf.schema import DataConf, Silo, SiloConf

SEED: Final = "data.seed"
"""Follows `run.seed` in the files under conf/data, so only who names the key itself asks for it."""


def diff(asked: Silo, has: Silo) -> list[str]:
    """Return the settings in which two silos differ, as the keys by which they are asked for."""
    below = [
        f"{group}.{f.name}"
        for group in ("data", "machine")
        for f in dataclasses.fields(getattr(asked, group))
        if _differ(getattr(asked, group), getattr(has, group), f.name)
    ]
    return below + [name for name in ("device", "threads") if _differ(asked, has, name)]


def requested_changes(
    keys: Iterable[str], silo: Silo, own: SiloConf, overrides: list[str]
) -> list[str]:
    """Return those of the keys that somebody asks for, by name, by a group of files, or as the
    silo's `own`.
    """
    given = {override.key_or_group for override in parse(overrides)}
    given |= {"data.partition"} if "data" in given else set()
    return [key for key in keys if key in given or _in_own(key, own) or _in_a_group(key, silo.data)]


def _in_own(key: str, own: SiloConf) -> bool:
    group, _, name = key.rpartition(".")
    if group == "data":
        return name in own.data
    return getattr(own.machine if group else own, name) is not None


def _in_a_group(key: str, data: DataConf) -> bool:
    """Whether a data key has another value than if nobody had said anything."""
    group, _, name = key.rpartition(".")
    return group == "data" and key != SEED and _differ(data, DataConf(), name)


def _differ(one: object, other: object, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))

"""What a run that somebody asked an orchestrator for may have imported there.

A request names code by name and digest; from where it is imported, the orchestrator's owner has
said: with what its job was submitted, which packages are installed there, and, for a class that an
argument names (the strategy inside one of Flower's wrappers), `federation.orchestrator.targets`.

A run that comes home says nothing of that either: its configuration would be imported from here
when it is evaluated or resumed.

    MDW-115 a request that names code which the orchestrator's owner did not allow
    MDW-116 a run that was brought home names a place of code on this machine
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from conf.errors import ConfigError
from conf.schema import Conf
from conf.targets.known import GROUPS

FLOWER: Final = "flwr.serverapp.strategy."
"""Flower's own strategies, which every orchestrator has and any run may use."""


def check_asked(conf: Conf, allowed: Sequence[str]) -> None:
    """Raise ConfigError MDW-115 where a request would have code imported that is not allowed."""
    for group in GROUPS:
        target = getattr(getattr(conf, group), "target", "")
        if target:
            what = f"The request says where its {group} is: {group}.target={target[:100]}."
            hint = "Submit it with meadow submit, and launch the orchestrator with that code."
            raise ConfigError("MDW-115", what, hint)
    for target in nested_targets(conf):
        module, _, name = target.rpartition(".")
        of_flower = f"{module}." == FLOWER and name.isidentifier()
        if not of_flower and target not in allowed:
            what = (
                f"The request's strategy.args name {target[:100]}, which may not be imported here."
            )
            hint = (
                "The orchestrator's owner can allow it: launch the server with"
                " federation.orchestrator.targets=[PACKAGE.MODULE.CLASS]."
            )
            raise ConfigError("MDW-115", what, hint)


def check_brought_home(config: bytes, run_id: str) -> None:
    """Raise ConfigError MDW-116 where the `config.yaml` of another machine says where code is here.

    One that can't be read says nothing: whoever opens the run is told.
    """
    try:
        raw = yaml.safe_load(config)
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    for group in GROUPS:
        own = raw.get(group) if isinstance(raw, dict) else None
        if isinstance(own, dict) and own.get("target"):
            what = (
                f"The run {run_id} names {group}.target={str(own['target'])[:100]} on this machine."
            )
            hint = "No orchestrator of Meadow's writes that: ask its owner what happened."
            raise ConfigError("MDW-116", what, hint)


def nested_targets(conf: Conf) -> list[str]:
    """Return the classes that the strategy's arguments name, however deep."""
    return list(_targets_in(getattr(conf.strategy, "args", None)))


def _targets_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "target":
                yield str(inner)
            else:
                yield from _targets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _targets_in(inner)

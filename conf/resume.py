"""Going on with a stored run: its own configuration, of which only rounds, patience, tracking and
the engine may change.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import yaml

from conf.errors import ConfigError
from conf.overrides import parse, typed
from conf.parse import from_plain
from conf.schema import Conf
from conf.validate import validate

PLACES: Final = ("task.target", "model.target", "strategy.target")
"""Where code from outside this tree is now: it must be the same code."""
PATIENCE: Final = (
    "run.quorum",
    "run.start_quorum",
    "run.start_timeout",
    "run.round_timeout",
    "run.reconnect_patience",
    "run.grace",
)
"""For whom a run waits, and how long: what ends a run must not keep it from being resumed with
fewer silos, or with more patience.
"""
MAY_CHANGE: Final = (
    "run.resume",
    "run.rounds",
    "run.output",
    "tracking",
    "simulation",
    *PATIENCE,
    *PLACES,
)
"""What a resumed run may be told anew; anything else would make it another run."""


def folder_of(run: str, output: str = "outputs") -> Path:
    """Return the folder of a run given by id or path.

    Raises ConfigError MDW-183 where there is none.
    """
    for path in (Path(run), Path(output) / run):
        if (path / "config.yaml").is_file():
            return path
    raise ConfigError(
        "MDW-183",
        f"There is no run {run!r} here or in {output}/.",
        "Give a run's id, or the path of its folder.",
    )


def stored(folder: Path) -> Conf:
    """Return the configuration that a run was started with.

    Raises ConfigError where it can't be read.
    """
    path = folder / "config.yaml"
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            "MDW-106", f"{path} can't be read: {error}.", "Restore it, or start a new run."
        ) from error
    return from_plain(Conf, raw, where=f"the file {path}")


def resumed(asked: Conf, overrides: list[str]) -> Conf:
    """Return the stored configuration of `asked.run.resume`, changed where `overrides` may change
    it.

    Raises ConfigError: MDW-183 where there is no such run, MDW-185 where an override may not change
    anything.
    """
    assert asked.run.resume is not None
    overrides = typed(overrides)
    for override in parse(overrides):
        key = override.key_or_group
        if not any(key == may or key.startswith(f"{may}.") for may in MAY_CHANGE):
            raise ConfigError(
                "MDW-185",
                f"{key}: a resumed run keeps its configuration.",
                f"Only {', '.join(MAY_CHANGE)} may change; start a new run from its model with model.init=RUN_ID.",
            )
    conf = stored(folder_of(asked.run.resume, asked.run.output))
    given = {override.key_or_group for override in parse(overrides)}
    conf.run = dataclasses.replace(
        conf.run,
        resume=asked.run.resume,
        output=asked.run.output,
        rounds=asked.run.rounds if "run.rounds" in given else conf.run.rounds,
    )
    for key in given.intersection(PATIENCE):
        name = key.removeprefix("run.")
        setattr(conf.run, name, getattr(asked.run, name))
    conf.tracking = asked.tracking if _any(given, "tracking") else conf.tracking
    conf.simulation = asked.simulation if _any(given, "simulation") else conf.simulation
    for place in PLACES:
        if place in given:
            move(conf, place, getattr(asked, place.partition(".")[0]).target)
    validate(conf, lambda key: f"the stored run {asked.run.resume}")
    return conf


def move(conf: Conf, place: str, target: str) -> None:
    """Say where code of a stored run is now: `place` is `task.target` or one like it.

    Raises ConfigError MDW-185 where the run has this tree's own.
    """
    group = place.partition(".")[0]
    own = getattr(conf, group)
    if not getattr(own, "code", ""):
        raise ConfigError(
            "MDW-185",
            f"{place}: the stored run's {group} is {own.name} of this tree.",
            f"Leave {place} out.",
        )
    own.target = target


def _any(given: set[str], group: str) -> bool:
    return any(key == group or key.startswith(f"{group}.") for key in given)

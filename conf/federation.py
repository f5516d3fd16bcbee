"""Who takes part: the federation group, a file from outside the tree over it, the command line over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import ConfigError
from conf.hydra_errors import Origins
from conf.overrides import parse
from conf.parse import build
from conf.schema import FederationConf
from conf.validate import check_limits


def federation_of(
    composed: dict[str, Any], overrides: list[str], origins: Origins
) -> FederationConf:
    """Return the federation that `composed` (plain values) describes, the file it names laid beneath the command line.

    Raises ConfigError: MDW-106 a file that can't be read, MDW-101 to MDW-104 a wrong key or value, with the file.
    """
    path = composed.get("file")
    if path is None:
        return build(FederationConf, composed, key="federation", where=origins("federation"))
    origins.federation_file = str(path)
    merged = _laid_over(composed, read(Path(str(path))))
    for override in parse(overrides):
        group, *names = override.key_or_group.split(".")
        if group == "federation" and names:
            _copy(names, composed, merged)
    return build(FederationConf, merged, key="federation", where=f"{path} and the command line")


def read(path: Path) -> dict[str, Any]:
    """Return the checked content of a federation's file: the keys of FederationConf, its interpolations resolved.

    Paths in it are taken from the directory where the command is run. Raises ConfigError as `federation_of`.
    """
    where = str(path)
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as e:
        raise ConfigError(
            "MDW-106",
            f"The federation's file {where} can't be read: {e.strerror}.",
            "Correct the path.",
        ) from e
    except (UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as e:
        reason = " ".join(str(e).split())
        raise ConfigError(
            "MDW-106", f"The federation's file {where} can't be read: {reason}.", "Correct it."
        ) from e
    if content == {}:
        raise ConfigError(
            "MDW-106",
            f"The federation's file {where} is empty.",
            "Name the silos in it, under `silos`.",
        )
    typed = build(FederationConf, content, key="federation", where=where)
    check_limits(typed, "federation", lambda key: where)
    if typed.file is not None:
        raise ConfigError(
            "MDW-106",
            f"{where} names another file (federation.file).",
            "Put the silos in one file.",
        )
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items()}


def _laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = (
            _laid_over(below, value)
            if isinstance(below, dict) and isinstance(value, dict)
            else value
        )
    return merged


def _copy(names: list[str], source: dict[str, Any], target: dict[str, Any]) -> None:
    """Copy the value under the path `names`; where the source has none, it was deleted."""
    *parents, last = names
    for name in parents:
        source, inner = source.get(name, {}), target.get(name)
        target[name] = dict(inner) if isinstance(inner, dict) else {}
        target = target[name]
    if last in source:
        target[last] = source[last]
    else:
        target.pop(last, None)

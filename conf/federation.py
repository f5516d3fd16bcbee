"""Who takes part: the federation group, a file from outside the tree over it, the command line over
both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from conf import foreign, plain_yaml
from conf.errors import ConfigError
from conf.hydra_errors import Origins
from conf.overrides import parse
from conf.parse import from_plain
from conf.schema import FederationConf
from conf.validate import check_limits


def federation_of(
    composed: dict[str, Any], overrides: list[str], origins: Origins
) -> FederationConf:
    """Return the federation that `composed` (plain values) describes.

    The file that it names lies beneath the command line. Raises ConfigError: MDW-106 a file that
    can't be read, MDW-114 a value that is not another party's to choose, MDW-101 to MDW-104 a wrong
    key or value, with the file.
    """
    path = composed.get("file")
    if path is None:
        return from_plain(FederationConf, composed, key="federation", where=origins("federation"))
    origins.federation_file = str(path)
    merged = _merged(composed, read(Path(str(path))))
    # Where the command line says something about the federation, it wins over the file.
    for override in parse(overrides):
        group, *names = override.key_or_group.split(".")
        if group == "federation" and names:
            _copy_at(names, composed, merged)
    return from_plain(
        FederationConf, merged, key="federation", where=f"{path} and the command line"
    )


def read(path: Path) -> dict[str, Any]:
    """Return the checked content of a federation's file: keys of FederationConf, plain values.

    Somebody else may have written it, so it is held to `conf.foreign`: no interpolation is resolved
    in it, and its paths are those of files beside it. Raises ConfigError as `federation_of`.
    """
    where = str(path)
    try:
        content = plain_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as e:
        what = f"The federation's file {where} can't be read: {e.strerror}."
        raise ConfigError("MDW-106", what, "Correct the path.") from e
    except (UnicodeDecodeError, yaml.YAMLError) as e:
        reason = " ".join(str(e).split())
        what = f"The federation's file {where} can't be read: {reason}."
        raise ConfigError("MDW-106", what, "Correct it.") from e
    if not content:
        what = f"The federation's file {where} is empty."
        raise ConfigError("MDW-106", what, "Name the silos in it, under `silos`.")
    foreign.check_plain(content, where)
    typed = from_plain(FederationConf, content, key="federation", where=where)
    check_limits(typed, "federation", lambda key: where)
    if typed.file is not None:
        what = f"{where} names another file (federation.file)."
        raise ConfigError("MDW-106", what, "Put the silos in one file.")
    assert isinstance(content, dict)
    return foreign.meant(content, path)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` in it; mappings are merged key by key."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = _merged(below, value)
        else:
            merged[name] = value
    return merged


def _copy_at(names: list[str], source: dict[str, Any], target: dict[str, Any]) -> None:
    """Copy the value under the path `names`; where the source has none, it was deleted."""
    *parents, last = names
    for name in parents:
        source = source.get(name, {})
        inner = target.get(name)
        target[name] = dict(inner) if isinstance(inner, dict) else {}
        target = target[name]
    if last in source:
        target[last] = source[last]
    else:
        target.pop(last, None)

"""Overrides as people write them: checked against the schema, and made ready for Hydra."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.resources import files

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from conf.errors import ConfigError
from conf.schema import Conf
from conf.schema_keys import is_open, nearest, unknown_key

COMMAND_LINE = "command line"
_STRAY = re.compile(r"token recognition error at: ('.*')$", re.DOTALL)


def groups() -> list[str]:
    """Return the groups of configuration files: the folders under conf/."""
    return sorted(
        f.name for f in files("conf").iterdir() if f.is_dir() and not f.name.startswith(("_", "."))
    )


def options(group: str) -> list[str]:
    """Return the names of a group's files, without `.yaml`."""
    return sorted(
        f.name[: -len(".yaml")]
        for f in files("conf").joinpath(group).iterdir()
        if f.name.endswith(".yaml")
    )


def parse(overrides: list[str]) -> list[Override]:
    """Return the parsed overrides; raises ConfigError (MDW-100) for one that Hydra's grammar does not know."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as e:
            raise _no_override(text, str(e).splitlines()[0]) from e
    return parsed


def _no_override(text: str, reason: str) -> ConfigError:
    stray = _STRAY.match(reason)
    if stray is None:
        hint = "Write key=value or group=option, and quote what the shell or Hydra would read otherwise."
        return ConfigError("MDW-100", f"'{text}' ({COMMAND_LINE}) is no override: {reason}.", hint)
    key, equals, _ = text.partition("=")
    if stray[1][1:-1] in key or not equals:
        hint = (
            "A key takes only the ASCII letters, digits, '_', '-' and the dots between its names."
        )
    else:
        hint = f"Quote text other than ASCII letters and digits, once more for the shell: \"{key}='TEXT'\"."
    return ConfigError(
        "MDW-100", f"'{text}' ({COMMAND_LINE}) is no override: {stray[1]} can't stand there.", hint
    )


def ready(overrides: list[str]) -> list[str]:
    """Return the overrides for Hydra, each key known to the schema.

    A new name in a mapping (`strategy.args.eta`, `federation.silos.north.threads`) gets the `++` that Hydra asks
    for, so that nobody has to write it. Raises ConfigError: MDW-100 no override, MDW-101 an unknown key.
    """
    return [_ready(o) for o in parse(overrides)]


def _ready(override: Override) -> str:
    key, text = override.key_or_group, str(override.input_line)
    if (
        key in groups()
        and key != "experiment"
        and override.value() is None
        and not override.is_delete()
    ):
        raise ConfigError(
            "MDW-102",
            f"{text} ({COMMAND_LINE}): {key} can't be left out.",
            nearest("", options(key)),
        )
    if key == "hydra" or key.startswith("hydra.") or "/" in key or key in groups():
        return text
    if "." not in key and key not in {f.name for f in fields(Conf)}:
        raise unknown_key(key, {f.name for f in fields(Conf)} | set(groups()), COMMAND_LINE)
    opened = is_open(key, COMMAND_LINE)
    return (
        f"++{text}"
        if opened and not override.is_add() and not override.is_delete() and text[0] != "+"
        else text
    )

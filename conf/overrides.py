"""Overrides as people write them: checked against the schema, and made ready for Hydra."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from conf import own_files
from conf.config_groups import groups, options
from conf.errors import ConfigError
from conf.meant_key import as_text, did_you_mean
from conf.schema import EXTERNAL, VARIANTS, Conf
from conf.schema_keys import check_key, nearest, unknown_key

COMMAND_LINE = "command line"
_OPEN = [group for group, names in VARIANTS.items() if EXTERNAL in names]
"""Groups of which code from outside may be a choice."""
TASKS_OWN = "model=task"
"""Chosen where a task from outside the tree is named and no model."""
SEARCHPATH = "hydra.searchpath"
"""Hydra's list of further folders with files of configuration."""
_STRAY = re.compile(r"token recognition error at: ('.*')$", re.DOTALL)


def parse(overrides: list[str]) -> list[Override]:
    """Return the parsed overrides.

    Raises ConfigError (MDW-100) for one that Hydra's grammar does not know.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as e:
            raise _not_an_override(text, str(e).splitlines()[0]) from e
    return parsed


def _not_an_override(text: str, reason: str) -> ConfigError:
    stray = _STRAY.match(reason)
    if stray is None:
        hint = "Write key=value or group=option, and quote what the shell or Hydra would change."
        what = f"'{text}' ({COMMAND_LINE}) is not an override: {reason}."
        return ConfigError("MDW-100", what, hint)
    key, equals, _ = text.partition("=")
    if stray[1][1:-1] in key or not equals:
        hint = "A key has only ASCII letters, digits, '_', '-' and the dots between its names."
    else:
        hint = f"Quote other text for Hydra, and once more for the shell: \"{key}='TEXT'\"."
    what = f"'{text}' ({COMMAND_LINE}) is not an override: {stray[1]} is not allowed there."
    return ConfigError("MDW-100", what, hint)


def ready(overrides: list[str]) -> list[str]:
    """Return the overrides for Hydra, each key known to the schema.

    A new name in a mapping (`strategy.args.eta`, `federation.silos.north.threads`) gets the `++`
    that Hydra asks for, so that nobody has to write it. Raises ConfigError: MDW-100 not an
    override, MDW-101 an unknown key.
    """
    parsed = parse(overrides)
    return [*(_ready(o) for o in parsed), *_chosen_by_target(parsed)]


def _chosen_by_target(parsed: list[Override]) -> list[str]:
    """Return the choices that go without saying: of the group whose `target` is given."""
    keys = {o.key_or_group for o in parsed}
    choices = []
    for group in _OPEN:
        if group not in keys and (f"{group}.target" in keys or _names_no_choice(parsed, group)):
            choices.append(f"{group}={EXTERNAL}")
    says_model = any(key == "model" or key in ("model.target", "model.name") for key in keys)
    if "task.target" in keys and not says_model:
        choices.append(TASKS_OWN)
    return choices


def typed(overrides: list[str]) -> list[str]:
    """Return overrides as they were typed: without the choices that `ready` adds to them."""
    possible = {f"{group}={EXTERNAL}" for group in _OPEN} | {TASKS_OWN}
    rest = [text for text in overrides if text not in possible]
    implied = _chosen_by_target(parse(rest))
    return [text for text in overrides if text not in implied]


def _names_no_choice(parsed: list[Override], group: str) -> bool:
    """Say whether a name is given that an installed package may have, and this tree has not."""
    key = f"{group}.name"
    names = [o.value() for o in parsed if o.key_or_group == key]
    return any(isinstance(name, str) and name not in VARIANTS[group] for name in names)


def _ready(override: Override) -> str:
    key = override.key_or_group
    text = str(override.input_line)
    if key in groups():
        _check_chosen(override, key, text)
        return text
    folders = override.value()
    if key == SEARCHPATH and isinstance(folders, list):
        return _searchpath(text, folders)
    if key == "hydra" or key.startswith("hydra.") or "/" in key:
        return text
    head, _, raw = text.partition("=")
    takes_new_names = _check_known(key, raw)
    if not override.is_delete() and not override.is_sweep_override():
        text = f"{head}={as_text(key, override.value(), raw, COMMAND_LINE)}"
    says_how = override.is_add() or override.is_delete() or text.startswith("+")
    if takes_new_names and not says_how:
        return f"++{text}"
    return text


def _searchpath(text: str, folders: list[Any]) -> str:
    """Return Hydra's list of further folders, with addresses that are read as YAML 1.2."""
    head, _, _ = text.partition("=")
    addresses = [own_files.address(str(one)) for one in folders]
    quoted = ["'" + one.replace("'", r"\'") + "'" for one in addresses]
    return f"{head}=[{','.join(quoted)}]"


def _check_known(key: str, raw: str) -> bool:
    """Return what `check_key` does; its error names the whole key that was meant, with its value."""
    top_level = {f.name for f in fields(Conf)}
    try:
        if "." not in key and key not in top_level:
            raise unknown_key(key, top_level | set(groups()), COMMAND_LINE)
        return check_key(key, COMMAND_LINE)
    except ConfigError as error:
        hint = did_you_mean(key, raw)
        if not hint or "renamed" in error.message:
            raise
        raise ConfigError(error.code, error.message, hint) from None


def _check_chosen(override: Override, group: str, text: str) -> None:
    """Raise ConfigError MDW-102 where a group that every run needs is set to nothing."""
    empty = override.value() is None and not override.is_delete()
    if empty and group != "experiment":
        what = f"{text} ({COMMAND_LINE}): {group} can't be left out."
        raise ConfigError("MDW-102", what, nearest("", options(group)))

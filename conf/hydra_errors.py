"""Where a value was written, and what Hydra and OmegaConf mean when they refuse one."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import yaml
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import ConfigError
from conf.overrides import COMMAND_LINE, parse
from conf.schema import Conf
from conf.schema_keys import hints, is_open, nearest, owners

_FILE = re.compile(r"^In '([^']+)': ")
_KEY = re.compile(r"full_key: (\S+)")
_TYPE = re.compile(r"Value '(.*)' of type '.*' could not be converted to (\w+)")
_WORDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
_UNKNOWN = re.compile(r"Key '([^']+)' not in ")


class Origins:
    """Says where a key got its value: the command line, an experiment, its group's file, or the schema's default."""

    def __init__(self, overrides: list[str], choices: dict[str, Any]) -> None:
        self._given = [o.key_or_group for o in parse(overrides)]
        self._choices = choices
        self.federation_file: str | None = None
        """The file that `federation` was read from, once it was."""

    def __call__(self, key: str) -> str:
        """Return the place of `key` (dotted), to be named in an error."""
        if any(
            key == g or key.startswith(f"{g}.") or g.startswith(f"{key}.")
            for g in self._given
            if "." in g
        ):
            return COMMAND_LINE
        group, _, inner = key.partition(".")
        if group == "federation" and self.federation_file is not None:
            return self.federation_file
        experiment = f"experiment/{self._choices.get('experiment')}.yaml"
        own = f"{group}/{self._choices.get(group)}.yaml"
        for file, path in ((experiment, key), (own, inner), ("config.yaml", key)):
            if _has(file, path):
                return f"conf/{file}"
        return "default in conf/schema.py"


def _has(file: str, path: str) -> bool:
    source = files("conf").joinpath(file)
    if not source.is_file():
        return False
    content = OmegaConf.create(source.read_text())
    for name in path.split("."):
        if not isinstance(content, DictConfig) or name not in content:
            return False
        content = content._get_node(name)  # type: ignore[assignment]  # the plain [] would resolve interpolations
    return True


def explained(error: Exception, overrides: list[str]) -> ConfigError:
    """Return Hydra's or OmegaConf's `error` in our words: the key, where it was written, and what would be valid."""
    if isinstance(error, MissingConfigException):
        return _missing(error)
    if isinstance(error, yaml.YAMLError):
        return ConfigError(
            "MDW-100",
            f"A configuration file is no YAML: {' '.join(str(error).split())}.",
            "Correct it.",
        )
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    file, key = _FILE.search(text), _KEY.search(text)
    where = _named(f"{file.group(1)}.yaml") if file else COMMAND_LINE
    if key is None:
        return ConfigError(
            "MDW-100",
            f"The configuration can't be composed ({where}): {_reason(text)}.",
            _hint(text),
        )
    if _UNKNOWN.search(text):
        return _unknown(key.group(1), where)
    if not file and isinstance(error, OmegaConfBaseException):
        where = Origins(overrides, {})(key.group(1))
    return ConfigError(
        "MDW-103", f"{key.group(1)} ({where}): {_reason(text)}.", "Correct the value."
    )


def _named(file: str) -> str:
    """Return how to name a configuration file: those found through `hydra.searchpath` are not under conf/."""
    return f"conf/{file}" if files("conf").joinpath(file).is_file() else file


def _missing(error: MissingConfigException) -> ConfigError:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    hint = nearest(name, error.options or ())
    return ConfigError(
        "MDW-102", f"{group}={name}: there is no file '{name}' in the group '{group}'.", hint
    )


def _unknown(key: str, where: str) -> ConfigError:
    if key.startswith("hydra."):
        return ConfigError(
            "MDW-101",
            f"{key} ({where}) is no key of Hydra.",
            "Compare with: meadow simulate --cfg hydra.",
        )
    others = list(owners(key))
    if others:
        parent = key.rpartition(".")[0]
        return ConfigError(
            "MDW-101",
            f"{key} ({where}) is no key of the chosen {parent}.",
            f"It belongs to {' and '.join(others)}.",
        )
    try:
        is_open(key, where)
    except ConfigError as e:
        return e
    return ConfigError(
        "MDW-101", f"{key} ({where}): there is no such key.", nearest(key, hints(Conf))
    )


def _reason(text: str) -> str:
    """Return the line that says it, without the frame that Hydra puts around it."""
    lines = [line.strip() for line in _FILE.sub("", text).splitlines() if line.strip()]
    telling = [
        x
        for x in lines
        if not x.startswith(("full_key", "Error merging", "reference_type", "object_type"))
    ]
    told = [x for x in telling if not x.endswith("raised while composing config:")]
    reason = (told or lines or ["no reason given"])[0].rstrip(".")
    wrong = _TYPE.search(reason)
    return f"'{wrong[1]}' is not {_WORDS.get(wrong[2], wrong[2])}" if wrong else reason


def _hint(text: str) -> str:
    if "Ambiguous value" in text:
        return "To run each value write --multirun; for a list write key=[a,b]; for text quote it."
    return "Compare with: meadow simulate --help."

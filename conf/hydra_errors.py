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
from conf.schema_keys import check_key, hints, nearest, owners

_FILE = re.compile(r"^In '([^']+)': ")
_KEY = re.compile(r"full_key: (\S+)")
_TYPE = re.compile(r"Value '(.*)' of type '.*' could not be converted to (\w+)")
_WORDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
_UNKNOWN = re.compile(r"Key '([^']+)' not in ")


class Origins:
    """Says where a key got its value: the command line, a file, or the schema's default."""

    def __init__(self, overrides: list[str], choices: dict[str, Any]) -> None:
        self._overridden = [o.key_or_group for o in parse(overrides) if "." in o.key_or_group]
        self._choices = choices
        self.federation_file: str | None = None
        """The file that `federation` was read from, once it was."""

    def __call__(self, key: str) -> str:
        """Return where `key` (dotted) was written, to be named in an error."""
        # An entry of a list stands where the list does.
        key = key.partition("[")[0]
        # An override of a key's parent, or of one of its children, decides its value too.
        if any(_related(key, other) for other in self._overridden):
            return COMMAND_LINE
        group, _, inner = key.partition(".")
        if group == "federation" and self.federation_file is not None:
            return self.federation_file
        candidates = (
            (f"experiment/{self._choices.get('experiment')}.yaml", key),
            (f"{group}/{self._choices.get(group)}.yaml", inner),
            ("config.yaml", key),
        )
        for file, path in candidates:
            if _has(file, path):
                return f"conf/{file}"
        return "default in conf/schema/"


def _related(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _has(file: str, path: str) -> bool:
    source = files("conf").joinpath(file)
    if not source.is_file():
        return False
    content = OmegaConf.create(source.read_text())
    for name in path.split("."):
        if not isinstance(content, DictConfig) or name not in content:
            return False
        # Not content[name]: that would resolve interpolations.
        content = content._get_node(name)  # type: ignore[assignment]
    return True


def translate(error: Exception, overrides: list[str]) -> ConfigError:
    """Return Hydra's or OmegaConf's `error` in our words.

    They say the key, where it was written, and what would be valid.
    """
    if isinstance(error, MissingConfigException):
        return _missing(error)
    if isinstance(error, yaml.YAMLError):
        reason = " ".join(str(error).split())
        what = f"A configuration file is not YAML: {reason}."
        return ConfigError("MDW-100", what, "Correct it.")
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    file = _FILE.search(text)
    key = _KEY.search(text)
    where = _named(f"{file.group(1)}.yaml") if file else COMMAND_LINE
    if key is None:
        what = f"The configuration can't be composed ({where}): {_reason(text)}."
        return ConfigError("MDW-100", what, _hint(text))
    if _UNKNOWN.search(text):
        return _unknown(key.group(1), where)
    if not file and isinstance(error, OmegaConfBaseException):
        where = Origins(overrides, {})(key.group(1))
    return ConfigError(
        "MDW-103", f"{key.group(1)} ({where}): {_reason(text)}.", "Correct the value."
    )


def _named(file: str) -> str:
    """Return a configuration file's path: one found through `hydra.searchpath` is not in conf/."""
    if files("conf").joinpath(file).is_file():
        return f"conf/{file}"
    return file


def _missing(error: MissingConfigException) -> ConfigError:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    hint = nearest(name, error.options or ())
    return ConfigError(
        "MDW-102", f"{group}={name}: there is no file '{name}' in the group '{group}'.", hint
    )


def _unknown(key: str, where: str) -> ConfigError:
    if key.startswith("hydra."):
        what = f"{key} ({where}) is not a key of Hydra."
        return ConfigError("MDW-101", what, "Compare with: meadow simulate --cfg hydra.")
    others = list(owners(key))
    if others:
        parent = key.rpartition(".")[0]
        what = f"{key} ({where}) is not a key of the chosen {parent}."
        return ConfigError("MDW-101", what, f"It belongs to {' and '.join(others)}.")
    try:
        check_key(key, where)
    except ConfigError as e:
        return e
    what = f"{key} ({where}): there is no such key."
    return ConfigError("MDW-101", what, nearest(key, hints(Conf)))


def _reason(text: str) -> str:
    """Return the line that says it, without the frame that Hydra puts around it."""
    lines = [line.strip() for line in _FILE.sub("", text).splitlines() if line.strip()]
    telling = [line for line in lines if not _is_frame(line)]
    reason = (telling or lines or ["no reason given"])[0].rstrip(".")
    wrong = _TYPE.search(reason)
    if wrong is None:
        return reason
    return f"'{wrong[1]}' is not {_WORDS.get(wrong[2], wrong[2])}"


def _is_frame(line: str) -> bool:
    begins = ("full_key", "Error merging", "reference_type", "object_type")
    return line.startswith(begins) or line.endswith("raised while composing config:")


def _hint(text: str) -> str:
    if "Ambiguous value" in text:
        return "To run each value write --multirun; for a list write key=[a,b]; for text quote it."
    return "Compare with: meadow simulate --help."

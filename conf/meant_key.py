"""Which key a person meant who wrote one that is not there, and how its value was meant.

Names that people from elsewhere use (`learning_rate`) are beside the fields (`also` in
`conf.fields`); a value that stands on a line as `1.10` is a text where its key takes a text.
"""

from __future__ import annotations

import re
from functools import cache

from conf.errors import ConfigError
from conf.key_list import Key, keys


def meant(key: str) -> list[str]:
    """Return the keys that a wrong one may stand for: of its last name, or with it as a synonym.

    Those of the named group alone, where it has any; `run.seed` before `data.seed`.
    """
    group, _, name = key.rpartition(".")
    found = []
    for known in keys():
        last = known.path.rpartition(".")[2]
        if "NAME" not in known.path and (name == last or name in known.also) and last != "name":
            found.append(known.path)
    same = [path for path in found if path.split(".")[0] == group.split(".")[0]]
    return list(dict.fromkeys(same or found))


def did_you_mean(key: str, value: str) -> str:
    """Return the hint that names the keys that were meant, with the value; empty where none is."""
    suggestions = [f"{path}={value}" if value else f"{path}=..." for path in meant(key)]
    return f"Did you mean {' or '.join(suggestions)}?" if suggestions else ""


@cache
def _known() -> list[tuple[re.Pattern[str], Key]]:
    patterns = []
    for key in keys():
        pattern = re.escape(key.path).replace("NAME", r"[^.]+")
        patterns.append((re.compile(pattern), key))
    return patterns


def known_key(path: str) -> Key | None:
    """Return what the schema says of a key; None for one in a mapping that takes new names."""
    return next((key for pattern, key in _known() if pattern.fullmatch(path)), None)


def as_text(path: str, value: object, raw: str, where: str) -> str:
    """Return a value as Hydra has to be given it, so that a key keeps what was typed for it.

    Hydra reads `1.10` and `12e4567` as numbers, also for a key that takes a text. Raises
    ConfigError: MDW-103 one value for a key that takes a list, MDW-123 an empty one for a key that
    names something or is null.
    """
    key = known_key(path)
    if key is None:
        return raw
    is_scalar = isinstance(value, int | float | str) and not raw.startswith("${")
    if key.is_list and is_scalar:
        what = f"{path}={raw} ({where}): {path} is a list."
        raise ConfigError("MDW-103", what, f"Write {path}=[{raw}].")
    if key.is_text and key.default is None and value == "":
        what = f"{path}= ({where}): the value is empty."
        raise ConfigError("MDW-123", what, f"Write one, leave {path} out, or write {path}=null.")
    if key.is_text and isinstance(value, bool | int | float):
        return f"'{raw.strip()}'"
    return raw

"""The table of verbs: who they are for, what they take, what they do.

A verb is one row, in the module of those it is for, and one function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from azureml_jobs.cli.arguments import HELP_FLAGS, Verb
from azureml_jobs.cli.verbs_of_everybody import EVERYBODY
from azureml_jobs.cli.verbs_of_owners import OWNERS
from azureml_jobs.cli.verbs_of_scientists import SCIENTISTS
from conf.errors import ConfigError

_ROWS: Final = (*SCIENTISTS, *OWNERS, *EVERYBODY)

VERBS: Final = {verb.name: verb for verb in _ROWS}
"""Every verb, in the order of the help."""
KEYS: Final = frozenset(
    argument.name
    for verb in _ROWS
    for argument in verb.arguments
    if not argument.is_flag and not argument.is_word
)
"""Every `key=` that some verb takes, so that one that belongs to another verb is told apart from a
key of the run.
"""


def find(args: Sequence[str]) -> tuple[Verb | str, list[str]]:
    """Return the verb that the arguments begin with, and the others; the first word alone where it
    asks for help.

    Raises ConfigError: MDW-110 for a word that begins no verb, MDW-111 for a second one that does
    not go with it.
    """
    first = args[0]
    rest = list(args[1:])
    seconds = [name.partition(" ")[2] for name in VERBS if name.startswith(f"{first} ")]
    if first in VERBS and not (rest and rest[0] in seconds):
        return VERBS[first], rest
    if not seconds:
        raise ConfigError("MDW-110", f"There is no verb '{first}'.", _nearest(first, _firsts()))
    word = next((arg for arg in rest if not arg.startswith("-") and "=" not in arg), None)
    if word in seconds:
        rest.remove(word)
        return VERBS[f"{first} {word}"], rest
    if not rest or any(flag in rest for flag in HELP_FLAGS):
        return first, rest
    what = f"meadow {first}: '{word or rest[0]}' does not go with it."
    raise ConfigError("MDW-111", what, _nearest(word or "", seconds))


def _firsts() -> set[str]:
    return {name.partition(" ")[0] for name in VERBS}


def _nearest(word: str, names: Sequence[str] | set[str]) -> str:
    from conf.schema_keys import nearest

    return nearest(word, names)

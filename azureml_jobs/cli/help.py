"""The help of the command line, generated from the table of verbs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from azureml_jobs.cli.arguments import Argument, Verb

WIDTH: Final = 100
"""Columns of a line of help."""
DOCUMENTATION: Final = """meadow VERB --help says more about a verb.
Documentation: docs/; codes of errors: docs/errors.md."""


def overview(verbs: Mapping[str, Verb]) -> str:
    """Return every verb with its summary, by role."""
    roles = list(dict.fromkeys(verb.role for verb in verbs.values()))
    blocks = ["meadow VERB [ARGUMENT ...] [GROUP=OPTION | KEY=VALUE ...]"]
    indent = max(map(len, verbs)) + 4
    for role in roles:
        rows = [(verb.name, verb.summary) for verb in verbs.values() if verb.role == role]
        blocks.append("\n".join([f"{role}:", *_rows(rows, indent)]))
    return "\n\n".join([*blocks, DOCUMENTATION])


def group_help(name: str, verbs: Mapping[str, Verb]) -> str:
    """Return the verbs that begin with one word, such as `meadow keys`."""
    own = [verb for verb in verbs.values() if verb.name.startswith(f"{name} ")]
    rows = [(_usage_line(verb), verb.summary) for verb in own]
    indent = min(max(len(usage) for usage, _ in rows) + 4, 34)
    return "\n".join([f"meadow {name} ...", "", *_rows(rows, indent), "", DOCUMENTATION])


def verb_help(verb: Verb) -> str:
    """Return one verb's usage, arguments, exit statuses and examples."""
    blocks = [_usage(verb)]
    blocks.append("\n\n".join(filter(None, [_sentence(verb.summary), verb.about])))
    rows = [(_forms(argument), _explained(argument)) for argument in verb.arguments]
    rows += _override_rows(verb)
    if rows:
        blocks.append(_block("Arguments", rows))
    if verb.statuses:
        blocks.append(_block("Exit status", verb.statuses))
    if verb.examples:
        blocks.append(_block("Examples", verb.examples, most=72))
    return "\n\n".join(blocks)


def keys_help() -> str:
    """Return every key of the configuration with what it means; a silo's own are on their page."""
    from conf.key_list import keys

    rows = []
    for key in keys():
        if "NAME" not in key.path:
            about = f"{key.help} (with {key.only})" if key.only else key.help
            choices = f": {', '.join(key.values)}" if key.values else ""
            rows.append((key.path, about + choices))
    title = "== What the keys mean (all of them, with limits: docs/configuration.md) =="
    return "\n".join([title, "", *_rows(rows, 34)])


def _usage(verb: Verb) -> str:
    parts = [argument for argument in verb.arguments if argument.is_word]
    parts += [argument for argument in verb.arguments if not argument.is_word]
    words = [_bracketed(one) for one in parts if not _is_choice(one, verb)]
    for names in verb.one_of:
        forms = [argument.form for argument in parts if argument.name in names]
        words.append(f"({' | '.join(forms)})")
    if verb.overrides == ("",):
        words.append("[GROUP=OPTION | KEY=VALUE ...]")
    elif verb.overrides:
        words.append("[KEY=VALUE ...]")
    begin = f"meadow {verb.name} "
    return _wrapped(begin, words)


def _usage_line(verb: Verb) -> str:
    words = [_bracketed(one) for one in verb.arguments if one.is_word or one.required]
    return " ".join([verb.name, *words])


def _bracketed(argument: Argument) -> str:
    return argument.form if argument.required else f"[{argument.form}]"


def _is_choice(argument: Argument, verb: Verb) -> bool:
    return any(argument.name in names for names in verb.one_of)


def _wrapped(begin: str, words: Sequence[str]) -> str:
    """Return words after `begin`, over as many lines as they need; no word is broken."""
    lines = [begin.rstrip()]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(" " * (len(begin) - 1))
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _forms(argument: Argument) -> str:
    return f"{argument.alias}, {argument.form}" if argument.alias else argument.form


def _explained(argument: Argument) -> str:
    belongs = argument.needs or (f"backend={argument.backend}" if argument.backend else "")
    return f"{argument.help} (with {belongs})" if belongs else argument.help


def _override_rows(verb: Verb) -> list[tuple[str, str]]:
    if verb.overrides == ("",):
        rows = [("GROUP=OPTION, KEY=VALUE", "the configuration: meadow simulate --help lists it")]
        if verb.hydra:
            rows.append(("--cfg job", "print the configuration and stop"))
        return rows
    return [row for prefix in verb.overrides for row in _OVERRIDES[prefix]]


_OVERRIDES: Final = {
    "federation.": (
        ("federation.name=NAME", "which federation (federation)"),
        ("federation.folder=FOLDER", "where it is on this machine (.meadow/NAME)"),
        ("federation.file=FILE", "the file that describes it"),
    ),
    "data.": (
        ("data.root=FOLDER", "the silo's files, or one of them"),
        ("data.delimiter=LETTER", "of a CSV, where it is not found in its first line"),
        ("data.encoding=NAME", "of a CSV's text, where it is not UTF-8"),
        ("data.decimal=,", "where a comma is the decimal point"),
    ),
    "task.target": (("task.target=FILE.py:Class", "where the run's own task is now"),),
    "model.target": (("model.target=FILE.py:Class", "where its own model is now"),),
    "strategy.target": (("strategy.target=FILE.py:Class", "where its own strategy is now"),),
    "run.output": (("run.output=FOLDER", "where files of runs go (outputs)"),),
}


def _block(title: str, rows: Sequence[tuple[str, str]], most: int = 30) -> str:
    indent = min(max(len(left) for left, _ in rows) + 4, most)
    return "\n".join([f"{title}:", *_rows(rows, indent)])


def _rows(rows: Sequence[tuple[str, str]], indent: int) -> list[str]:
    """Return two columns; a left cell that is too long has a line of its own."""
    lines = []
    for left, right in rows:
        text = textwrap.wrap(right, max(WIDTH - indent, 40)) or [""]
        begin = f"  {left}"
        if len(begin) + 2 > indent:
            lines.append(begin)
            begin = ""
        lines.append(f"{begin:{indent}}{text[0]}".rstrip())
        lines += [" " * indent + line for line in text[1:]]
    return lines


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."

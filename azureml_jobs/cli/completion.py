"""Completion for bash, zsh and fish: a script for the shell, which asks for the words that fit.

The script calls `meadow completion candidates WORD ...` with what stands on the line, the last word
being the one that is completed. Everything is read off the table of verbs, the schema and the
folders, so that a new verb, key, option or run is completed without a change here; nothing heavy is
imported, since a person waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from azureml_jobs.cli.arguments import HELP_FLAGS, Argument, Arguments, Verb

CANDIDATES: Final = "candidates"
"""The second word of the call that a shell makes."""
Candidate = tuple[str, str]
"""A word that fits, and a few words on what it is."""

BASH: Final = """\
# meadow's completion for bash: eval "$(meadow completion bash)"
_meadow() {
    local line="${COMP_LINE:0:COMP_POINT}" words=() current begin reply=()
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    current="${words[${#words[@]}-1]}"
    # bash breaks words at = and :, and wants what stands behind the last of them.
    begin="${current%"${current##*[=:]}"}"
    [[ "$COMP_WORDBREAKS" == *"="* ]] || begin=""
    while IFS=$'\\t' read -r word _; do
        reply+=("${word#"$begin"}")
    done < <("${words[0]}" completion candidates "${words[@]:1}" 2> /dev/null)
    COMPREPLY=("${reply[@]}")
    [[ ${#reply[@]} == 1 && "${reply[0]}" == *[=.] ]] && compopt -o nospace
}
complete -o default -F _meadow meadow
"""
ZSH: Final = """\
#compdef meadow
# meadow's completion for zsh: eval "$(meadow completion zsh)", after compinit
_meadow() {
    local line
    local -a keys=() key_lines=() values=() value_lines=()
    for line in "${(@f)$("${words[1]}" completion candidates "${(@)words[2,$CURRENT]}" 2> /dev/null)}"; do
        [[ -z "$line" ]] && continue
        if [[ "${line%%$'\\t'*}" == *= ]]; then
            keys+=("${line%%$'\\t'*}")
            key_lines+=("${line/$'\\t'/  -- }")
        else
            values+=("${line%%$'\\t'*}")
            value_lines+=("${line/$'\\t'/  -- }")
        fi
    done
    (( ${#keys} )) && compadd -l -S '' -d key_lines -a keys
    (( ${#values} )) && compadd -l -d value_lines -a values
    (( ${#keys} + ${#values} )) || _files
}
compdef _meadow meadow
"""
FISH: Final = """\
# meadow's completion for fish: meadow completion fish | source
complete -c meadow -f -a '(meadow completion candidates (commandline -opc)[2..-1] (commandline -ct) 2> /dev/null)'
"""
SCRIPTS: Final = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(arguments: Arguments) -> int:
    """Print the script of a shell."""
    print(SCRIPTS[arguments.get("SHELL")], end="")
    return 0


def answer(words: Sequence[str]) -> int:
    """Print the candidates for the last of the words, one a line, each with what it is."""
    for word, about in candidates(list(words) or [""]):
        print(f"{word}\t{about}" if about else word)
    return 0


def candidates(words: Sequence[str]) -> list[Candidate]:
    """Return what may stand in the place of the last word, given those before it."""
    *before, current = words
    fitting = _of_verb(before, current)
    return [one for one in fitting if one[0].startswith(current)]


def _of_verb(before: Sequence[str], current: str) -> Iterator[Candidate]:
    from azureml_jobs.cli.verbs import VERBS

    verb, rest = _verb(before, VERBS)
    if verb is None:
        yield from _next_words(before, VERBS)
        return
    key, equals, _ = current.partition("=")
    if equals:
        values = _values(verb, key, [*rest, current])
        yield from ((f"{key}={value}", about) for value, about in values)
        return
    given = {word.partition("=")[0] for word in rest}
    if not rest:
        # `meadow budget` is a verb, and so is `meadow budget forecast`.
        yield from (one for one in _next_words(before, VERBS) if one[0] not in HELP_FLAGS)
    for word, about in [*_arguments(verb), *_keys(verb)]:
        if word.rstrip("=") not in given:
            yield word, about


def _verb(before: Sequence[str], verbs: dict[str, Verb]) -> tuple[Verb | None, list[str]]:
    """Return the verb that the words begin with, if it is whole, and the words after it."""
    for length in (2, 1):
        name = " ".join(before[:length])
        if len(before) >= length and name in verbs:
            return verbs[name], list(before[length:])
    return None, []


def _next_words(before: Sequence[str], verbs: dict[str, Verb]) -> Iterator[Candidate]:
    """Yield the words that lead on to a verb."""
    begin = list(before)
    seen = set()
    for name, verb in verbs.items():
        parts = name.split()
        if parts[: len(begin)] != begin or len(parts) == len(begin):
            continue
        word = parts[len(begin)]
        if word not in seen:
            seen.add(word)
            yield word, verb.summary if len(parts) == len(begin) + 1 else ""
    yield "--help", "explain it"


def _arguments(verb: Verb) -> Iterator[Candidate]:
    """Yield a verb's own arguments as they are begun."""
    for argument in verb.arguments:
        if argument.is_word:
            yield from ((choice, argument.help) for choice in argument.choices)
        else:
            needs_value = bool(argument.value) and not argument.is_flag
            yield f"{argument.name}=" if needs_value else argument.name, argument.help
    yield from ((flag, "explain it") for flag in HELP_FLAGS[:1])


def _keys(verb: Verb) -> Iterator[Candidate]:
    """Yield the groups and keys of the configuration that a verb takes."""
    if not verb.overrides:
        return
    from conf.config_groups import groups
    from conf.key_list import keys

    if "" in verb.overrides:
        yield from ((f"{group}=", "a file of conf/") for group in groups())
    for key in keys():
        takes = any(key.path.startswith(prefix) for prefix in verb.overrides)
        if takes and "NAME" not in key.path:
            yield f"{key.path}=", key.help


def _values(verb: Verb, key: str, words: Sequence[str]) -> Iterator[Candidate]:
    """Yield the values that a key or an argument takes, as far as they are known."""
    for argument in verb.arguments:
        if argument.name == key:
            yield from _values_of_argument(argument, words)
            return
    found = _FOUND.get(key)
    if found is not None:
        yield from found(words)
        return
    from conf.config_groups import groups, options
    from conf.key_list import keys

    if key in groups():
        yield from ((option, "") for option in options(key))
        return
    for known in keys():
        if known.path == key:
            choices = ("true", "false") if known.kind == "true or false" else known.values
            yield from ((choice, known.help) for choice in choices)


def _values_of_argument(argument: Argument, words: Sequence[str]) -> Iterator[Candidate]:
    if argument.choices:
        yield from ((choice, "") for choice in argument.choices)
    elif argument.name == "run":
        yield from _runs(words)


def _runs(words: Sequence[str]) -> Iterator[Candidate]:
    """Yield the ids of the runs in run.output."""
    output = "outputs"
    for word in words:
        if word.startswith("run.output="):
            output = word.partition("=")[2]
    for config in sorted(Path(output).glob("*/config.yaml")):
        yield config.parent.name, ""


def _tasks(words: Sequence[str]) -> Iterator[Candidate]:
    """Yield the names of the tree's tasks."""
    from client.registry import registered_in

    yield from ((name, "") for name in registered_in("tasks"))


_FOUND: Final[dict[str, Callable[[Sequence[str]], Iterator[Candidate]]]] = {
    "run.resume": _runs,
    "model.init": _runs,
    "task.name": _tasks,
}
"""Keys whose values are found on this machine."""

"""The table of verbs: each row leads to a function, and its help says what it takes."""

from __future__ import annotations

import inspect

import pytest

from azureml_jobs.cli.help import WIDTH, group_help, overview, verb_help
from azureml_jobs.cli.verbs import KEYS, VERBS, find
from conf.errors import ConfigError


@pytest.mark.parametrize("name", VERBS)
def test_a_row_leads_to_a_function_that_takes_its_arguments(name: str) -> None:
    function = VERBS[name].function()
    assert (
        len([p for p in inspect.signature(function).parameters.values() if p.default is p.empty])
        == 1
    )
    assert function.__doc__


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_has_its_usage_its_arguments_and_fits_a_terminal(name: str) -> None:
    verb = VERBS[name]
    shown = verb_help(verb)
    assert shown.startswith(f"meadow {name}")
    for argument in verb.arguments:
        assert argument.form in shown
    lines = [line for line in shown.splitlines() if line not in verb.about.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    assert max(map(len, [*verb.about.splitlines(), ""])) <= 120


def test_the_overview_names_every_verb_below_its_role_and_fits_a_terminal() -> None:
    shown = overview(VERBS)
    assert max(map(len, shown.splitlines())) <= WIDTH
    role = ""
    for line in shown.splitlines()[1:]:
        if line.endswith(":"):
            role = line.removesuffix(":")
        for name, verb in VERBS.items():
            if line.startswith(f"  {name}  "):
                assert verb.role == role and verb.summary in line
    assert all(f"\n  {name} " in shown for name in VERBS)


def test_names_are_given_once_and_an_argument_means_one_thing() -> None:
    for verb in VERBS.values():
        names = [argument.name for argument in verb.arguments]
        assert len(names) == len(set(names))
        known = set(names)
        assert all(argument.needs in known or not argument.needs for argument in verb.arguments)
        assert all(name in known for group in verb.one_of for name in group)
    assert {"run", "silo", "backend", "as", "timeout", "records", "days"} <= KEYS


def test_a_verb_of_two_words_is_found_wherever_its_second_one_stands() -> None:
    verb, rest = find(["launch", "backend=local", "--detach", "all", "task=digits"])
    assert verb is VERBS["launch all"] and rest == ["backend=local", "--detach", "task=digits"]
    assert find(["keys"]) == ("keys", [])
    assert find(["launch", "--help"])[0] == "launch"
    shown = group_help("keys", VERBS)
    assert all(name in shown for name in VERBS if name.startswith("keys "))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["kyes"], "MDW-110", "Did you mean 'keys'?"),
        (["keys", "amdit", "north"], "MDW-111", "Did you mean 'admit'?"),
        (["launch", "backend=local"], "MDW-111", "all, client, server"),
        (["launch", "everything"], "MDW-111", "all, client, server"),
    ],
)
def test_a_misspelt_verb_names_the_nearest(words: list[str], code: str, told: str) -> None:
    with pytest.raises(ConfigError, match=code) as error:
        find(words)
    assert told in str(error.value)

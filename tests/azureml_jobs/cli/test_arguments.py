"""The one parser: what each kind of argument takes, and what a mistake is told."""

from __future__ import annotations

import shlex

import pytest

from azureml_jobs.cli.arguments import Argument, Arguments, Verb, parse
from conf.errors import ConfigError

VERB = Verb(
    "try",
    "Everybody",
    "try it",
    "nowhere:nothing",
    (
        Argument("NAME", "a name", required=True),
        Argument("FILE", "a file"),
        Argument("run", "a run", "RUN"),
        Argument("days", "days", "DAYS"),
        Argument("backend", "where", "here|there", choices=("here", "there"), code="MDW-192"),
        Argument("--ca", "a certificate", "FILE"),
        Argument("-f", "follow", alias="--follow"),
        Argument("--key", "a key", "FILE", needs="--ca"),
    ),
    overrides=("federation.",),
)
OPEN = Verb(
    "open",
    "Everybody",
    "open it",
    "nowhere:nothing",
    (Argument("silo", "a silo", "NAME"), Argument("--detach", "return")),
    overrides=("",),
    hydra=True,
)
ONE_OF = Verb(
    "one",
    "Everybody",
    "one",
    "nowhere:nothing",
    (Argument("--a", "a", "A"), Argument("--b", "b", "B")),
    one_of=(("--a", "--b"),),
)


def tried(line: str, verb: Verb = VERB) -> Arguments:
    return parse(verb, shlex.split(line), ("anchors", "silo"))


def test_words_keys_flags_and_overrides_are_told_apart_in_any_order() -> None:
    found = tried("-f north run=a --ca 'a b' federation.name=x n.pub --key=k")
    assert found.values == {
        "NAME": "north",
        "FILE": "n.pub",
        "run": "a",
        "--ca": "a b",
        "--key": "k",
    }
    assert found.flags == {"-f"} and found.rest == ("federation.name=x",)
    assert tried("north --follow").has("-f")
    assert found.get("days", "365") == "365" and not found.has("days")


def test_a_value_may_hold_what_separates_arguments() -> None:
    assert tried("north run=a=b").get("run") == "a=b"
    assert tried("north --ca=x=--key").get("--ca") == "x=--key"
    assert tried("north run").get("FILE") == "run", "without an equals sign it is a word"
    assert tried("north --ca --key --key k").values["--ca"] == "--key"


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("", "MDW-111", "NAME is missing"),
        ("a b c", "MDW-111", "'c' is not an argument"),
        ("a rum=x", "MDW-111", "Did you mean 'run=RUN'?"),
        ("a --folow", "MDW-111", "Did you mean '-f'?"),
        ("a run=", "MDW-111", "run has no value"),
        ("a b run", "MDW-111", "'run' is not an argument"),
        ("a -f=1", "MDW-111", "-f takes no value"),
        ("a --ca", "MDW-111", "--ca has no value"),
        ("a --ca=", "MDW-111", "--ca has no value"),
        ("a run=x run=x", "MDW-112", "run is given twice"),
        ("a -f --follow", "MDW-112", "-f is given twice"),
        ("a backend=hre", "MDW-192", "Did you mean 'here'?"),
        ("a backend=", "MDW-192", "has no value"),
        ("a --key k", "MDW-111", "belongs to --ca"),
        ("a trainer.lr=1", "MDW-111", "federation.KEY=VALUE"),
        ("a silo=x", "MDW-111", "'silo=x' is not an argument"),
        ("''", "MDW-111", "NAME has no value"),
        ("a =x", "MDW-111", "'=x' is not an argument"),
        ("a " + "x" * 5000 + "=1", "MDW-111", "..."),
    ],
)
def test_a_mistake_is_told_with_its_code_and_the_nearest_name(
    line: str, code: str, told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        tried(line)
    text = str(error.value)
    assert error.value.code == code and told in text and len(text) < 600
    assert text.startswith(f"{code}: meadow try: ")


def test_a_verb_with_a_configuration_takes_its_keys_and_refuses_what_another_verb_takes() -> None:
    found = tried("run.rounds=3 +trainer.new=1 ~task --cfg job silo=a strategy=fedprox", OPEN)
    assert found.rest[0] == "run.rounds=3" and "--cfg" in found.rest and "job" in found.rest
    assert found.get("silo") == "a"
    for line, told in (
        ("anchors=x", "anchors=x"),
        ("slio=a", "silo=NAME"),
        ("--detahc", "--detach"),
    ):
        with pytest.raises(ConfigError, match="MDW-111") as error:
            tried(line, OPEN)
        assert told in str(error.value)


@pytest.mark.parametrize("line", ["", "--a 1 --b 2"])
def test_of_arguments_that_exclude_each_other_exactly_one_is_given(line: str) -> None:
    assert tried("--a 1", ONE_OF).get("--a") == "1"
    with pytest.raises(ConfigError, match=r"exactly one of --a A, --b B"):
        tried(line, ONE_OF)


@pytest.mark.parametrize("text", ["soon", "nan", "0", "-1", "inf", "1e9"])
def test_a_number_is_one_and_in_its_bounds(text: str) -> None:
    assert tried("a days=2.5").number("days", 1.0, 10.0) == 2.5
    assert tried("a").number("days", 1.0, 10.0) == 1.0
    with pytest.raises(ConfigError, match=rf"MDW-111: meadow try: days={text} is not a number"):
        tried(f"a days={text}").number("days", 1.0, 10.0)


def test_what_was_asked_can_be_written_again() -> None:
    line = "try north n.pub run=a --ca c -f"
    assert tried(line.removeprefix("try ")).written == line.split()

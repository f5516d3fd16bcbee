"""Every key has one text, and the page that lists the keys is written from the schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.compose import compose
from conf.key_list import Key, keys, page
from conf.schema import VARIANTS
from conf.schema_keys import check_key

ROOT = Path(__file__).parents[2]


def by_path(path: str) -> Key:
    return next(key for key in keys() if key.path == path)


def is_wrong(text: str) -> bool:
    begins_small = text[:1].islower() or text.split(" ")[0].isupper()
    if not begins_small and not text.startswith(("GPUs", "MLflow", "SHA-256")):
        return True
    return "\n" in text or text.endswith(".") or len(text) > 160


def test_every_key_has_a_text_of_one_line_that_begins_small_and_ends_without_a_stop() -> None:
    assert [key.path for key in keys() if is_wrong(key.help)] == []


def test_the_page_of_keys_says_what_the_schema_says() -> None:
    told = (ROOT / "docs" / "configuration.md").read_text()
    assert told == page(compose([])), "write it anew: python -m conf.key_list"


def test_every_listed_key_is_one_that_an_override_may_have() -> None:
    for key in keys():
        check_key(key.path.replace("NAME", "north"), "the list")


def test_a_key_that_one_choice_alone_has_says_which() -> None:
    assert by_path("strategy.mu").only == "strategy=fedprox"
    assert by_path("model.hidden").only == "model=mlp"
    assert by_path("model.init").only == ""


def test_a_group_s_name_takes_the_names_of_its_choices() -> None:
    assert by_path("model.name").values == tuple(VARIANTS["model"])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("run.rounds", "whole number, at least 1, at most 1000000"),
        ("data.validation", "number, at least 0, at most 0.9"),
        ("model.hidden", "list of whole numbers, at least 1, at most 131072"),
        ("data.download", "true or false"),
        ("strategy.args", "names with values"),
    ],
)
def test_what_a_key_takes_is_said_in_words_with_its_limits(path: str, kind: str) -> None:
    assert by_path(path).kind == kind

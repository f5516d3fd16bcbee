"""Plain values become dataclasses strictly: the annotated type, known keys, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from conf.errors import ConfigError
from conf.parse import from_plain
from conf.schema import Conf, FedProxConf, MlpConf


@dataclass
class Inner:
    ratio: float = 0.5


@dataclass
class Outer:
    count: int
    name: str = "x"
    on: bool = False
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    words: list[str] = field(default_factory=list)
    parts: dict[str, Inner] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)


def made(**values: object) -> Outer:
    return from_plain(Outer, {"count": 1, **values}, where="a file")


def refusal(raw: object, **more: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        from_plain(Outer, raw, where="a file", **more)
    return caught.value


def test_absent_fields_keep_their_defaults() -> None:
    assert made() == Outer(1)


def test_values_nest_as_the_dataclasses_do() -> None:
    parts = {"a": {"ratio": 0.25}, "b": {}}
    result = made(inner={"ratio": 2}, words=["p", "q"], parts=parts, limit=3)
    assert result.inner == Inner(2.0) and type(result.inner.ratio) is float
    assert result.parts == {"a": Inner(0.25), "b": Inner()}
    assert (result.words, result.limit) == (["p", "q"], 3.0)


def test_null_is_a_value_only_where_it_is_annotated() -> None:
    assert made(limit=None).limit is None
    assert refusal({"count": None}).code == "MDW-103"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("count", True, "whole number"),
        ("count", 1.0, "whole number"),
        ("count", "1", "whole number"),
        ("name", 1, "text"),
        ("on", 1, "true or false"),
        ("on", "true", "true or false"),
        ("limit", "1", "number"),
        ("limit", True, "number"),
        ("limit", math.nan, "finite number"),
        ("limit", math.inf, "finite number"),
        ("limit", 10**400, "number"),
        ("words", "p", "list"),
        ("words", ("p",), "list"),
        ("inner", [], "mapping"),
        ("inner", {1: 2}, "mapping"),
        ("parts", {1: {}}, "mapping"),
        ("anything", {"a": object()}, "plain value"),
        ("anything", {"a": [math.nan]}, "plain value"),
        ("anything", {"a": {1: 2}}, "mapping"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_key_and_file(
    key: str, value: object, wanted: str
) -> None:
    error = refusal({"count": 1, key: value})
    assert error.code == "MDW-103"
    assert error.message.startswith(key) and "(a file)" in error.message
    assert wanted in error.message


def test_the_place_inside_a_value_is_named() -> None:
    assert "words[1] (a file)" in refusal({"count": 1, "words": ["p", 2]}).message
    inside = refusal({"count": 1, "parts": {"a": {"ratio": "x"}}}, key="top")
    assert "top.parts.a.ratio (a file)" in inside.message
    assert "anything.a[1] " in refusal({"count": 1, "anything": {"a": [1, object()]}}).message


def test_plain_values_pass_where_anything_may_stand() -> None:
    values = {"a": [1, 2.5, "x", None, True], "b": {"c": {}}}
    assert made(anything=values).anything == values


def test_an_unknown_key_names_the_nearest_and_a_missing_one_the_key() -> None:
    unknown = refusal({"count": 1, "nam": "y"})
    assert unknown.code == "MDW-101" and "Did you mean 'name'?" in str(unknown)
    missing = refusal({})
    assert missing.code == "MDW-101" and "a file lacks the key count." in missing.message


def test_a_message_must_be_complete() -> None:
    assert "lacks the key anything" in refusal({"count": 1}, complete=True).message
    nested = {
        "count": 1,
        "name": "x",
        "on": True,
        "limit": None,
        "inner": {},
        "words": [],
        "parts": {},
        "anything": {},
    }
    assert "lacks the key inner.ratio" in refusal(nested, complete=True).message


@pytest.mark.parametrize("raw", [None, [], "text", {1: 2}])
def test_what_is_not_a_mapping_of_names_is_refused(raw: object) -> None:
    assert refusal(raw).code == "MDW-103"


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal({"count": "x" * 10_000}).message) < 200


def test_a_variant_is_chosen_by_its_name() -> None:
    values = {"strategy": {"name": "fedprox", "mu": 0.5}, "model": {"name": "mlp", "hidden": [2]}}
    conf = from_plain(Conf, values, where="a message")
    assert conf.strategy == FedProxConf(mu=0.5) and conf.model == MlpConf(hidden=[2])


@pytest.mark.parametrize("name", ["fedprx", None, 3, ["fedavg"]])
def test_a_variant_that_does_not_exist_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match=r"MDW-102: strategy\.name \(a message\)"):
        from_plain(Conf, {"strategy": {"name": name}}, where="a message")

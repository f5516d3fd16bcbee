"""Metrics are judged by what the task says of them, and written so that a person can read them."""

from __future__ import annotations

import math

import pytest

from server.run.shown import (
    best,
    direction,
    headline_of,
    known,
    partial_note,
    present,
    score,
    written,
)

SHOWN = {"auprc": "max", "rmse": "min"}


def test_a_note_names_who_withheld_counts_and_of_many_the_first() -> None:
    assert partial_note([]) == ""
    assert partial_note(["north", "south"]) == "partial: north, south withheld counts"
    many = [f"s{number}" for number in range(12)]
    assert partial_note(many).endswith("s9 and 2 more withheld counts")


def test_the_headline_is_the_first_shown_metric_that_has_a_value() -> None:
    assert headline_of(SHOWN, {"rmse": 2.0, "auprc": 0.5}) == "auprc"
    assert headline_of(SHOWN, {"rmse": 2.0, "auprc": math.nan}) == "rmse"
    assert headline_of(SHOWN, {"accuracy": 1.0}) is None
    assert present(SHOWN, {"other": 1.0, "rmse": 2.0, "auprc": None}) == ["rmse"]


def test_the_best_is_the_least_where_less_is_better() -> None:
    assert best(SHOWN, "rmse", [3.0, 1.0, 2.0]) == 1.0
    assert best(SHOWN, "auprc", [0.3, 0.1, 0.2]) == 0.3
    assert direction(SHOWN, "rmse") == "lower is better"
    assert direction(SHOWN, "auprc") == "higher is better"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7414, "0.741"),
        (0.0, "0.000"),
        (-0.25, "-0.250"),
        (12.3456, "12.35"),
        (12_345.6, "12,346"),
        (-1.7e308, "-1.7e+308"),
        (0.000123, "0.00012"),
        (math.nan, "–"),
        (math.inf, "–"),
        (None, "–"),
    ],
)
def test_a_value_keeps_as_many_digits_as_mean_something(value: float | None, text: str) -> None:
    assert written(value) == text


def test_what_is_not_there_is_a_dash() -> None:
    assert score({"rmse": 1.0}, None) == "–"
    assert score({}, "rmse") == "–"
    assert known([{"a": 1.0}, {"a": None}, {"a": math.inf}, {}], "a") == [1.0]


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (0.00051, "0.741 ± 0.0006"),
        (0.0006, "0.741 ± 0.0006"),
        (0.00096, "0.741 ± 0.001"),
        (0.25, "0.741 ± 0.3"),
        (0.0, "0.741"),
        (math.nan, "0.741"),
    ],
)
def test_a_value_that_is_not_exact_has_its_bound_beside_it(bound: float, text: str) -> None:
    assert score({"auprc": 0.7411, "auprc_error": bound}, "auprc") == text

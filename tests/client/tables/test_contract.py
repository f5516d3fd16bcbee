"""A table's contract: what can't be meant is told before any data is read."""

from __future__ import annotations

from typing import Any

import pytest

from client.tables.contract import contract_of
from conf.errors import ConfigError

AGE = {"name": "age", "low": 0, "high": 120}
SEX = {"name": "sex", "type": "category", "values": ["f", "m"]}
ILL = {"name": "ill", "type": "flag"}


def test_the_label_decides_the_problem() -> None:
    assert contract_of([AGE, SEX, ILL], "ill").problem == "class"
    assert contract_of([AGE, SEX, ILL], "ill").classes == ("0", "1")
    assert contract_of([AGE, SEX, ILL], "sex").classes == ("f", "m")
    assert contract_of([AGE, SEX, ILL], "age").problem == "number"
    two = contract_of([AGE, ILL, {"name": "old", "type": "flag"}], "", ["old", "ill"])
    assert two.problem == "flags"
    assert two.classes == ("old", "ill")


def test_inputs_are_the_other_columns_in_the_order_of_the_contract() -> None:
    assert [column.name for column in contract_of([SEX, ILL, AGE], "ill").inputs] == ["sex", "age"]


@pytest.mark.parametrize(
    ("columns", "label", "why"),
    [
        ([AGE, AGE, ILL], "ill", "two of its columns"),
        ([AGE, ILL], "sick", "no column is named"),
        ([AGE, ILL], "", "says what is predicted"),
        ([ILL], "ill", "all of its columns are predicted"),
        ([{"name": "age"}, ILL], "ill", "needs low < high"),
        ([{"name": "age", "low": 3, "high": 3}, ILL], "ill", "needs low < high"),
        ([{"name": "sex", "type": "category"}, ILL], "ill", "needs its values"),
        ([{"name": "sex", "type": "category", "values": ["f", "f"]}, ILL], "ill", "value twice"),
        ([{"name": "sex", "type": "flag", "values": ["f"]}, ILL], "ill", "for no and for yes"),
        ([{**AGE, "type": "flag"}, ILL], "ill", "has limits of a number"),
        ([{**AGE, "values": ["1"]}, ILL], "ill", "has values of a category"),
        ([{**AGE, "other": True}, ILL], "ill", "only a category has others"),
        ([{**AGE, "missing": "constant"}, ILL], "ill", "no constant"),
        ([{**SEX, "constant": 1}, ILL], "ill", "only numbers have constants"),
        ([AGE, {"name": "day", "type": "date"}], "day", "is a date"),
        ([AGE, {**SEX, "other": True}], "sex", "may not have other values"),
    ],
)
def test_columns_that_contradict_each_other_are_named(
    columns: list[dict[str, Any]], label: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        contract_of(columns, label)

    assert caught.value.code == "MDW-186"


def test_an_unknown_key_of_a_column_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'high'"):
        contract_of([{"name": "age", "low": 0, "hihg": 120}, ILL], "ill")


def test_a_column_without_a_constant_refuses_though_the_table_takes_constants() -> None:
    columns = [{**AGE, "constant": 40}, SEX, ILL]

    inputs = contract_of(columns, "ill", missing="constant").inputs

    assert [column.missing for column in inputs] == ["constant", "refuse"]

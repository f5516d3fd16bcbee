"""Cells as numbers: what each type takes, and what leaves of a fault."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from client.tables.encoding import Encoded, encoded
from conf.schema.table_columns import ColumnConf

NUMBER = ColumnConf("x", "number", low=-10, high=10, missing="typical")


def of(column: ColumnConf, cells: list[object], decimal: str = ".") -> Encoded:
    return encoded(pa.table({"x": pa.array(cells)}), [column], decimal)


def found(column: ColumnConf, cells: list[object], decimal: str = ".") -> dict[str, list[int]]:
    faults = of(column, cells, decimal).faults
    return {fault.found: np.flatnonzero(fault.rows).tolist() for fault in faults}


def values(column: ColumnConf, cells: list[object], decimal: str = ".") -> list[float]:
    made = of(column, cells, decimal)
    assert not made.faults
    return [float(value) for value in made.rows[:, 0]]


def test_numbers_in_every_usual_form() -> None:
    assert values(NUMBER, ["1", " -2.5 ", "+3e0", ".5", "7."]) == [1, -2.5, 3, 0.5, 7]


def test_numbers_of_parquet_are_taken_as_they_are() -> None:
    assert values(NUMBER, [1, 2, 3]) == [1, 2, 3]
    assert np.isnan(values(NUMBER, [1.5, None, float("nan")])[1:]).all()


@pytest.mark.parametrize("missing", ["", " ", "?", "NA", "NaN", "null"])
def test_what_stands_for_nothing_is_missing(missing: str) -> None:
    assert np.isnan(values(NUMBER, ["1", missing])[1])


def test_a_decimal_comma_is_declared_and_never_guessed() -> None:
    assert values(NUMBER, ["1,5", "2"], ",") == [1.5, 2]
    assert found(NUMBER, ["1,5", "2"]) == {"a number with another decimal point": [0]}
    assert found(NUMBER, ["1.5", "2"], ",") == {"a number with another decimal point": [0]}


def test_each_kind_of_fault_is_told_by_itself() -> None:
    cells: list[object] = ["1", "eleven", "11", "inf", "1,5", "0x10", "1_0"]

    assert found(NUMBER, cells) == {
        "a number with another decimal point": [4],
        "text": [1, 5, 6],
        "a number that is not finite": [3],
        "beyond its range": [2],
    }


def test_a_missing_value_is_a_fault_where_the_column_refuses_it() -> None:
    column = ColumnConf("x", "number", low=0, high=9, missing="refuse")

    assert found(column, ["1", ""]) == {"missing": [1]}


def test_flags_in_the_usual_words_and_in_their_own() -> None:
    flag = ColumnConf("x", "flag")
    assert values(flag, ["0", "1", "No", "YES", "true", "F"]) == [0, 1, 0, 1, 1, 0]
    assert found(flag, ["0", "2"]) == {"neither yes nor no": [1]}
    own = ColumnConf("x", "flag", values=["healthy", "ill"])
    assert values(own, ["ill", "healthy"]) == [1, 0]
    assert found(own, ["1", "ill"]) == {"neither yes nor no": [0]}


def test_categories_are_numbered_as_the_contract_lists_them() -> None:
    column = ColumnConf("x", "category", values=["b", "a"])
    assert values(column, ["a", "b", "b"]) == [1, 0, 0]
    assert found(column, ["a", "c"]) == {"a value that it does not list": [1]}
    others = ColumnConf("x", "category", values=["b", "a"], other=True)
    assert values(others, ["a", "c"]) == [1, 2]


def test_dates_are_days_since_2000() -> None:
    column = ColumnConf("x", "date")
    assert values(column, ["2000-01-02", "2000-01-01T12:00:00"]) == [1, 0.5]
    assert values(column, [datetime.date(1999, 12, 31)]) == [-1]
    assert found(column, ["2000-01-02", "2000-13-01", "1"]) == {"no date": [1, 2]}


def test_other_writings_of_a_value_are_that_value() -> None:
    other = [{"text": ">50K.", "means": ">50K"}]
    column = ColumnConf("x", "category", values=["<=50K", ">50K"], map=other)
    assert values(column, [">50K.", "<=50K"]) == [1, 0]

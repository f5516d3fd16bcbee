"""A silo's tables: found before round 1 with file and row in the owner's log, told without a value."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.tables.contract import contract_of
from client.tables.reading import read_table
from conf.border import across
from conf.errors import DataError
from conf.schema import DataConf

CONTRACT = contract_of(
    [
        {"name": "age", "low": 0, "high": 120},
        {"name": "sex", "type": "category", "values": ["f", "m"]},
        {"name": "ill", "type": "flag"},
    ],
    "ill",
)


def write(folder: Path, text: str, name: str = "rows.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_columns_count_by_name_and_not_by_order(tmp_path: Path) -> None:
    write(tmp_path, "ill,note,sex,age\n1,x,m,40\n", "a.csv")
    write(tmp_path, "age,sex,ill\n50,f,0\n", "b.csv")

    table = read_table(tmp_path, CONTRACT, DataConf())

    assert table.inputs.tolist() == [[40, 1], [50, 0]]
    assert table.labels.tolist() == [[1], [0]]
    assert table.files.tolist() == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("text", "column", "found"),
    [
        ("age,ill\n40,1\n", "sex", "none of that name"),
        ("Age,sex,ill\n40,m,1\n", "age", "none of that name"),
        ("age,sex,ill\n40,m,1\n4321,m,1\n", "age", "beyond its range"),
        ("age,sex,ill\n40,other99,1\n", "sex", "a value that it does not list"),
        ("age,sex,ill\nforty-7,m,1\n", "age", "text"),
        ("age,sex,ill\n,m,1\n", "age", "missing"),
        ("age,sex,ill\n40,m,\n", "ill", "missing"),
        ("age,sex,ill\n40,m,perhaps\n", "ill", "neither yes nor no"),
    ],
)
def test_what_breaks_the_contract_leaves_as_column_and_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, column: str, found: str
) -> None:
    file = write(tmp_path, text)

    with caplog.at_level(logging.WARNING), pytest.raises(DataError) as caught:
        read_table(file, CONTRACT, DataConf())

    assert caught.value.code == "MDW-242"
    crossed = across(caught.value)
    assert f'"column":"{column}"' in crossed
    assert f'"found":"{found}"' in crossed
    for value in ("4321", "other99", "forty-7", "perhaps", "rows.csv", str(tmp_path)):
        assert value not in crossed
    # The owner's own log says where to look.
    assert str(file) in caplog.text


def test_the_owners_log_has_the_line_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, "age,sex,ill\n40,m,1\n41,f,0\n300,f,0\n")

    with caplog.at_level(logging.WARNING), pytest.raises(DataError):
        read_table(file, CONTRACT, DataConf())

    assert "row 4: the column age is beyond its range" in caplog.text


def test_rows_that_break_the_contract_are_left_out_where_asked(tmp_path: Path) -> None:
    write(tmp_path, "age,sex,ill\n40,m,1\n300,f,0\n41,x,\n42,f,0\n")

    table = read_table(tmp_path, CONTRACT, DataConf(on_error="skip"))

    assert table.inputs[:, 0].tolist() == [40, 42]
    assert table.left_out == 2


@pytest.mark.parametrize(
    ("cells", "kind"), [(["7", "8"], np.float64), (["p7", "8"], str), (["7", ""], str)]
)
def test_a_column_beside_the_contract_may_say_what_belongs_together(
    tmp_path: Path, cells: list[str], kind: Any
) -> None:
    write(tmp_path, f"age,sex,ill,patient\n40,m,1,{cells[0]}\n41,f,0,{cells[1]}\n")

    table = read_table(tmp_path, CONTRACT, DataConf(group="patient"))

    assert np.issubdtype(table.beside["patient"].dtype, kind)
    assert len(set(table.beside["patient"].tolist())) == 2


def test_rows_come_in_the_order_of_a_column_that_need_not_be_the_models(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,y,when\n1,0,30\n2,1,4\n3,0,30\n4,1,-1\n")
    contract = contract_of(
        [{"name": "x", "low": 0.0, "high": 9.0}, {"name": "y", "type": "flag"}], "y"
    )

    table = read_table(tmp_path / "rows.csv", contract, DataConf(order="when"))

    assert table.ordered("when").inputs[:, 0].tolist() == [4, 2, 1, 3]
    with pytest.raises(DataError) as caught:
        table.ordered("then")
    assert caught.value.code == "MDW-261"

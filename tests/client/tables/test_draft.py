"""A drafted contract: what its own files keep, and little of what is in them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from client.tables.contract import contract_of
from client.tables.draft import draft, plain
from client.tables.reading import read_table
from conf.errors import DataError
from conf.schema import DataConf
from conf.schema.table_columns import ColumnConf


def made(folder: Path) -> Path:
    drawn = random.Random(0)
    lines = ["id,age,sex,rare,visit,ill,note,bmi"]
    for n in range(200):
        rare = "x9" if n == 7 else drawn.choice(["a", "b"])
        bmi = "" if n % 10 == 0 else f"{drawn.uniform(18.04, 39.7):.2f}"
        cells = [
            f"p{n}",
            drawn.randint(21, 87),
            drawn.choice("fm"),
            rare,
            f"2024-01-{n % 28 + 1:02}",
        ]
        lines.append(",".join(map(str, [*cells, n % 2, f"text {n}", bmi])))
    file = folder / "rows.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_drafted_contract_is_kept_by_its_own_files(tmp_path: Path) -> None:
    file = made(tmp_path)

    drafted = draft(file, DataConf(), ["ill"])
    contract = contract_of([plain(column) for column in drafted.columns], "ill")

    assert len(read_table(file, contract, DataConf())) == 200


def test_types_are_read_off_the_cells_and_names_left_out(tmp_path: Path) -> None:
    drafted = draft(made(tmp_path), DataConf(), ["ill"])

    assert {column.name: column.type for column in drafted.columns} == {
        "age": "number",
        "sex": "category",
        "rare": "category",
        "visit": "date",
        "ill": "flag",
        "bmi": "number",
    }
    assert drafted.left_out.keys() == {"id", "note"}


def test_a_value_of_few_rows_is_not_listed_and_limits_are_rounded_outwards(tmp_path: Path) -> None:
    columns = {column.name: column for column in draft(made(tmp_path), DataConf(), ["ill"]).columns}

    assert columns["rare"] == ColumnConf("rare", "category", values=["a", "b"], other=True)
    assert (columns["bmi"].low, columns["bmi"].high) == (18, 40)
    assert columns["bmi"].missing == "typical"


@pytest.mark.parametrize(
    ("no", "yes", "classes"), [("no", "yes", ["no", "yes"]), ("N", "Y", ["N", "Y"]), ("0", "1", [])]
)
def test_a_label_of_yes_and_no_is_said_in_the_table_s_words(
    no: str, yes: str, classes: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    rows = [f"{n / 7},{yes if n % 3 else no},{yes if n % 2 else no}" for n in range(60)]
    file.write_text("x,y,z\n" + "\n".join(rows) + "\n")

    columns = {column.name: column for column in draft(file, DataConf(), ["y"]).columns}

    assert columns["y"] == ColumnConf("y", "flag", values=classes)
    assert columns["z"] == ColumnConf("z", "flag")


def test_a_label_of_few_whole_numbers_is_classes(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("x,y\n" + "\n".join(f"{n / 7},{n % 12}" for n in range(60)) + "\n")

    (label,) = [column for column in draft(file, DataConf(), ["y"]).columns if column.name == "y"]

    assert label.values == [str(n) for n in range(12)]


def test_a_label_that_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its columns are id, age") as caught:
        draft(made(tmp_path), DataConf(), ["outcome"])

    assert caught.value.code == "MDW-244"

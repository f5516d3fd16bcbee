"""Tables in files: whatever delimiter, encoding and mark they have, and what is no table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from client.formats.table_file import read_table_file, table_files
from conf.errors import DataError
from conf.schema import DataConf


def cells(path: Path, conf: DataConf | None = None) -> dict[str, list[object]]:
    table = read_table_file(path, conf or DataConf()).table
    return {name: table[name].to_pylist() for name in table.column_names}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiter_and_byte_order_mark_are_found(
    tmp_path: Path, delimiter: str, encoding: str
) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(f"a{delimiter}b\n1,5{delimiter}é\n".replace("1,5", "15").encode(encoding))

    assert cells(file) == {"a": ["15"], "b": ["é"]}


def test_what_is_declared_is_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes("a:b,c\n1:é\n".encode("latin-1"))

    assert cells(file, DataConf(delimiter=":", encoding="latin-1")) == {"a": ["1"], "b,c": ["é"]}


def test_cells_in_quotes_may_hold_delimiters_and_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('"a","b"\n"1,2","x\ny"\n')

    assert cells(file) == {"a": ["1,2"], "b": ["x\ny"]}


def test_a_row_of_another_length_is_told_by_its_number_and_not_by_its_cells(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n1,secret,3\n")

    with pytest.raises(DataError, match="first row 3") as caught:
        read_table_file(file, DataConf())

    assert caught.value.code == "MDW-241"
    assert "secret" not in str(caught.value) + str(caught.value.told)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("rows.csv", b"", "empty"),
        ("rows.csv", b"a,a\n1,2\n", "two columns"),
        ("rows.csv", "a\né\n".encode("latin-1"), "encoding"),
        ("rows.parquet", b"PAR1 and no more", "not a whole table file"),
        ("rows.csv", b'a,b\n"1,2\n', "not a whole table file|another length|too long"),
    ],
)
def test_what_is_no_table_says_why(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(DataError, match=why):
        read_table_file(file, DataConf())


def test_parquet_is_known_by_its_first_bytes_and_refused_where_it_is_nested(tmp_path: Path) -> None:
    flat = tmp_path / "rows.dat"
    parquet.write_table(pa.table({"a": [1, None]}), flat)
    nested = tmp_path / "nested.parquet"
    parquet.write_table(pa.table({"a": [[1], [2]]}), nested)

    assert cells(flat) == {"a": [1, None]}
    with pytest.raises(DataError, match="lists or records"):
        read_table_file(nested, DataConf())


def test_files_of_a_folder_come_in_the_order_of_their_names_bytes(tmp_path: Path) -> None:
    for name in ("b.csv", "B.csv", "a/z.csv", "notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("a\n1\n")

    names = [path.relative_to(tmp_path).as_posix() for path in table_files(tmp_path)]

    assert names == ["B.csv", "a/z.csv", "b.csv"]


def test_a_folder_without_a_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no") as caught:
        table_files(tmp_path)

    assert caught.value.code == "MDW-240"


def test_a_row_may_be_as_long_as_the_first_line_makes_likely(tmp_path: Path) -> None:
    columns = 60_000
    names = [f"measurement_{n:08}" for n in range(columns)]
    file = tmp_path / "wide.csv"
    file.write_text(",".join(names) + "\n" + ",".join(["3.14159265358979"] * columns) + "\n")
    assert read_table_file(file, DataConf()).table.num_columns == columns


def test_a_quote_that_is_never_closed_is_guessed_from_an_endless_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('a,b\n"1,2\n' + "3,4\n" * (1 << 20))
    with pytest.raises(DataError, match="a quote may not be closed"):
        read_table_file(file, DataConf())


def test_every_column_of_a_very_wide_file_is_text(tmp_path: Path) -> None:
    # Its first line is longer than what is looked at to find encoding and mark.
    names = [f"measurement_{n:06}" for n in range(6000)]
    file = tmp_path / "wide.csv"
    file.write_text(",".join(names) + "\n" + ",".join(["007"] * 6000) + "\n")

    found = cells(file)

    assert list(found) == names
    assert {value for (value,) in found.values()} == {"007"}


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("a\0,\0b\0", "UTF-16 without a byte order mark"),
        (",".join(map(str, range(100_001))), "100,001 columns, and 100,000 may be"),
        ("x" * (1 << 24), "more than 16,777,216 letters"),
    ],
)
def test_a_first_line_beyond_all_measure_is_told(tmp_path: Path, first: str, why: str) -> None:
    file = tmp_path / "wide.csv"
    file.write_text(first + "\n1\n")
    with pytest.raises(DataError, match=why) as caught:
        read_table_file(file, DataConf())
    assert caught.value.code == "MDW-240"

"""What would not fit the memory is refused by what it claims, before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from client.formats import room
from client.formats.image_file import read_image
from client.formats.room import check_room
from client.formats.table_file import read_table_file
from conf.border import across
from conf.errors import DataError
from conf.schema import DataConf

MIB = 2**20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "memory", lambda: 8 * MIB)


def refused(path: Path) -> DataError:
    with pytest.raises(DataError, match="MDW-250") as caught:
        read_table_file(path, DataConf())
    assert path.name in caught.value.message and path.name not in across(caught.value)
    return caught.value


def test_it_is_told_with_what_there_is(small: None) -> None:
    check_room(Path("x"), 8 * MIB, "rows")
    with pytest.raises(DataError, match=r"x holds rows: about 0\.0 GiB"):
        check_room(Path("x"), 8 * MIB + 1, "rows")


def test_a_parquet_of_some_kilobytes_that_holds_a_million_rows(small: None, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"x": pa.array([1.0] * 10**6)}), file)
    assert os.path.getsize(file) < MIB / 20
    assert "1,000,000 rows of 1 columns" in refused(file).message


def test_a_csv_that_is_larger_than_the_memory(small: None, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a\n")
    os.truncate(file, 9 * MIB)
    refused(file)


def test_an_image_that_claims_more_than_fits(small: None, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("1", (2000, 2000)).save(file)
    assert os.path.getsize(file) < 2000
    with pytest.raises(DataError, match=r"MDW-250.*2,000 x 2,000 pixels"):
        read_image(file, 1, 8, 8, resize=True)

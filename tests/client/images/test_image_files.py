"""Which files of a folder are images, in an order that no machine changes, and what each is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.images.image_files import LabelTable, by_folder, by_table, class_folders, parts_of
from conf.border import across
from conf.errors import DataError
from conf.schema import DataConf

KINDS = LabelTable("labels.csv", "file", "kind", (), ("mono", "poly"), ())


def folder(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_labels_are_the_contracts_order_and_files_that_of_their_names(tmp_path: Path) -> None:
    folder(tmp_path, "ill/b.png", "ill/B.JPG", "well/a.dcm", "well/notes.txt", "ill/.hidden.png")

    found = by_folder(tmp_path, ["well", "ill"])

    assert found.names.tolist() == ["B.JPG", "b.png", "a.dcm"]
    assert found.labels.tolist() == [1, 1, 0]


def test_a_folder_of_no_class_is_told(tmp_path: Path) -> None:
    folder(tmp_path, "ill/b.png", "healthy/a.png")

    with pytest.raises(DataError, match="another folder") as caught:
        by_folder(tmp_path, ["well", "ill"])

    assert caught.value.code == "MDW-246"
    assert str(tmp_path) not in across(caught.value)


def test_folders_without_images_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "ill/readme.md")

    with pytest.raises(DataError, match="there is no image"):
        by_folder(tmp_path, ["ill"])


def test_train_and_test_folders_are_found(tmp_path: Path) -> None:
    folder(tmp_path, "train/b/x.png", "train/a/x.png", "test/a/x.png")

    assert sorted(parts_of(tmp_path)) == ["test", "train"]
    assert class_folders(tmp_path) == ["a", "b"]
    assert parts_of(tmp_path / "train") == {}


def test_a_table_says_what_each_file_is(tmp_path: Path) -> None:
    folder(tmp_path, "x/1.png", "x/2.png")
    (tmp_path / "labels.csv").write_text("file,kind,wet,cold\nx/2.png,poly,1,0\nx/1.png,mono,0,0\n")

    one = by_table(tmp_path, KINDS, DataConf(group="wet"))
    flags = by_table(tmp_path, replace(KINDS, label="", labels=("wet", "cold")), DataConf())

    assert one.names.tolist() == ["2.png", "1.png"]
    assert one.labels.tolist() == [1, 0]
    assert flags.labels.tolist() == [[1, 0], [0, 0]]
    assert {name: values.tolist() for name, values in one.columns.items()} == {"wet": ["1", "0"]}


def test_a_table_without_names_and_with_blanks_is_read_by_the_contract(tmp_path: Path) -> None:
    folder(tmp_path, "images/1.png", "images/2.png", "images/3.png")
    lines = "images/1.png  1.0      mono\nimages/2.png  0.25  poly\nimages/3.png\t0.0\tpoly\n"
    (tmp_path / "labels.csv").write_text(lines)
    texts = {"1.0": "broken", "0.25": "whole", "0.0": "whole"}
    meant = [{"text": text, "means": kind} for text, kind in texts.items()]
    said = LabelTable("labels.csv", "file", "p", (), ("whole", "broken"), meant)
    conf = DataConf(columns=["file", "p", "type"], delimiter=" ", column="type")

    found = by_table(tmp_path, said, conf)

    assert found.names.tolist() == ["1.png", "2.png", "3.png"]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.columns["type"].tolist() == ["mono", "poly", "poly"]
    assert found.without(np.array([True, False, False])).columns["type"].tolist() == ["poly"] * 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,kind\nx.png,mono\n", "a column file"),
        ("file,kind\nx.png,mono\n", "not there"),
        ("file,kind\n../y.png,mono\n", "not there"),
        ("file,kind\n/etc/passwd,mono\n", "not there"),
        ("file,kind\ny.png,duo\n", "a value that it does not list"),
        ("file,kind\ny.png,\n", "missing"),
    ],
)
def test_a_table_that_can_not_be_meant_is_told_without_a_cell(
    tmp_path: Path, text: str, why: str
) -> None:
    folder(tmp_path / "set", "y.png")
    folder(tmp_path, "y.png")
    (tmp_path / "set/labels.csv").write_text(text)

    with pytest.raises(DataError, match=why) as caught:
        by_table(tmp_path / "set", KINDS, DataConf())

    assert "passwd" not in str(caught.value)
    assert "duo" not in across(caught.value)

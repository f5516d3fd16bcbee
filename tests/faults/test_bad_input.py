"""Bad input is found before round 1: with silo, file and column in the owner's log, and without a value
outside it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from client.tasks import task_of
from client.tasks.base import Task
from conf.border import across
from conf.errors import DataError
from conf.schema import DataConf, ImagesConf, Silo, TableConf

SECRET = "Zaphod"
COLUMNS = [
    {"name": "age", "low": 0.0, "high": 120.0},
    {"name": "kind", "type": "category", "values": ["red", "blue"]},
    {"name": "ill", "type": "category", "values": ["well", "ill"]},
]
GOOD = "age,kind,ill\n30,red,well\n40,blue,ill\n50,red,well\n"

Made = Callable[[Path], None]


def text(content: str | bytes, name: str = "rows.csv") -> Made:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: void((folder / name).write_bytes(data))


def void(_: object) -> None:
    return None


def nested(folder: Path) -> None:
    parquet.write_table(pa.table({"age": [[1, 2]], "kind": ["red"]}), folder / "x.parquet")


def two_files(folder: Path) -> None:
    text(GOOD, "a.csv")(folder)
    text(GOOD.replace("kind", SECRET), "b.csv")(folder)


TABLES: dict[str, tuple[Made, str]] = {
    "a missing column": (text("age,ill\n30,well\n"), "MDW-242"),
    "a renamed column": (text(GOOD.replace("kind", "sort")), "MDW-242"),
    "an unknown category": (text(GOOD.replace("blue", SECRET)), "MDW-242"),
    "text in a number column": (text(GOOD.replace("40", SECRET)), "MDW-242"),
    "NaN where none may be": (text(GOOD.replace("40", "NaN")), "MDW-242"),
    "a decimal comma": (text(GOOD.replace("40", '"40,5"')), "MDW-242"),
    "a label outside the map": (text(GOOD.replace(",ill\n50", f",{SECRET}\n50")), "MDW-242"),
    "a missing label": (text(GOOD.replace("blue,ill", "blue,")), "MDW-242"),
    "another encoding": (text(GOOD.replace("blue", "bläu").encode("latin-1")), "MDW-240"),
    "a row too long": (text(GOOD + f"60,red,well,{SECRET}\n"), "MDW-241"),
    "a 0-row file": (text("age,kind,ill\n"), "MDW-243"),
    "a 0-byte file": (text(b""), "MDW-240"),
    "two files with other columns": (two_files, "MDW-242"),
    "nested Parquet": (nested, "MDW-240"),
    "no table at all": (text(SECRET, "notes.md"), "MDW-240"),
}


def table_task() -> Task:
    return task_of(TableConf(name="table", label="ill", columns=COLUMNS))


def own(root: Path) -> Silo:
    return Silo("north", data=DataConf(partition="own", root=str(root), validation=0, test=0))


def refused(task: Task, root: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        task.data(own(root))
    return caught.value


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_breaks_the_contract_is_refused_and_no_value_leaves(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write, code = TABLES[case]
    write(tmp_path)
    caplog.set_level(logging.INFO)

    error = refused(table_task(), tmp_path)

    assert error.code == code
    # What leaves is a code, and fields of the contract's own words: no value, row, path or count.
    crossed = across(error)
    assert SECRET not in crossed and str(tmp_path) not in crossed
    assert crossed.startswith(code)
    # The owner hears which file, in the message or the log.
    assert tmp_path.name in f"{error.message}{caplog.text}"


def test_what_looks_bad_and_is_not_is_read(tmp_path: Path) -> None:
    reordered = "ill,note,kind,age\nwell,x,red,30\nill,y,blue,40\n"
    text(b"\xef\xbb\xbf" + reordered.encode())(tmp_path)
    data = table_task().data(own(tmp_path))
    assert data.labels is not None and data.labels.tolist() == [0, 1]


def test_a_folder_that_may_not_be_entered_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()

    def closed(path: str) -> list[Path]:
        raise PermissionError(13, "Permission denied", path)

    # Not by its mode: whoever runs tests may be root.
    monkeypatch.setattr(os, "scandir", closed)
    error = refused(table_task(), tmp_path / "rows")
    assert error.code == "MDW-240" and "Permission denied" in error.message
    assert "rows" not in across(error)


def images_task(**more: object) -> Task:
    return task_of(
        ImagesConf(name="images", classes=["well", "ill"], height=8, width=8, channels=1, **more)  # type: ignore[arg-type]
    )


def picture(folder: Path, name: str, size: int = 8, mode: str = "L") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), 90).save(file)
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("well", "ill"):
        for n in range(3):
            picture(tmp_path, f"{name}/{SECRET}{n}.jpg")
    return tmp_path


def test_a_truncated_and_a_corrupt_image_are_told_without_their_names(images: Path) -> None:
    file = images / f"ill/{SECRET}1.jpg"
    whole = picture(images, f"ill/{SECRET}1.jpg", 64).read_bytes()
    random = np.random.default_rng(0).bytes(400)
    for data in (whole[: len(whole) // 2], b"", random):
        file.write_bytes(data)
        error = refused(images_task(), images)
        assert error.code == "MDW-245" and SECRET in error.message
        assert SECRET not in across(error)
    skipping = own(images)
    skipping.data.on_error = "skip"
    assert len(images_task().data(skipping).train) == 5  # type: ignore[arg-type]  # it has a length


def test_an_image_of_another_size_is_refused_where_the_contract_says_so(images: Path) -> None:
    picture(images, f"well/{SECRET}0.jpg", 9)
    assert refused(images_task(resize=False), images).code == "MDW-245"
    assert len(images_task().data(own(images)).train) == 6  # type: ignore[arg-type]


def test_an_image_of_another_mode_is_made_the_contracts(images: Path) -> None:
    picture(images, f"well/{SECRET}0.jpg", mode="CMYK")
    picture(images, f"well/{SECRET}1.jpg", mode="RGB")
    assert images_task().data(own(images)).train[0][0].shape == (1, 8, 8)


def test_an_empty_class_and_an_unknown_one_are_told(images: Path) -> None:
    for file in (images / "ill").iterdir():
        os.remove(file)
    assert refused(images_task(class_at_least=1), images).code == "MDW-249"
    picture(images, f"{SECRET}/x.jpg")
    error = refused(images_task(), images)
    assert error.code == "MDW-246"

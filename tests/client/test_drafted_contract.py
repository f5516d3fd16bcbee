"""A simulation's contract where none is written: of the data, and never in the place of one that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.drafted_contract import filled_in
from conf.compose import compose
from conf.errors import DataError
from conf.schema import ImagesConf, TableConf


def test_columns_of_a_table_and_classes_of_images_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,y\n1,0\n2,1\n")
    for name in ("b", "a"):
        (tmp_path / name).mkdir()

    table = filled_in(compose(["task=table", f"data.root={tmp_path}/rows.csv", "task.label=y"]))
    images = filled_in(compose(["task=images", f"data.root={tmp_path}"]))

    assert isinstance(table.task, TableConf) and isinstance(images.task, ImagesConf)
    assert [column["name"] for column in table.task.columns] == ["x", "y"]
    assert images.task.classes == ["a", "b"]


@pytest.mark.parametrize("task", ["breast_cancer", "pneumonia", "digits"])
def test_a_contract_that_is_written_stays(task: str) -> None:
    conf = compose([f"task={task}"])

    assert filled_in(conf) is conf


def test_without_data_there_is_nothing_to_draft_from() -> None:
    with pytest.raises(DataError, match=r"data\.root, which is not set") as caught:
        filled_in(compose(["task=table", "task.label=y"]))

    assert caught.value.code == "MDW-200"

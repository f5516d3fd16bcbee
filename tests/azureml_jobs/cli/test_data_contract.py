"""`meadow data contract` drafts a contract that its own files keep, and writes over nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from conf.compose import compose
from conf.schema import TableConf


def rows(folder: Path) -> Path:
    file = folder / "rows.csv"
    cells = "\n".join(f"{n},{'fm'[n % 2]},{n % 3 // 2}" for n in range(60))
    file.write_text(f"age,sex,ill\n{cells}\n")
    return file


def test_the_drafted_file_is_a_task_that_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    asked = ["data", "contract", f"data.root={rows(tmp_path)}", "label=ill", "file=task/ill.yaml"]

    assert main(asked) == 0

    assert "3 columns; read it before you share it" in capsys.readouterr().out
    task = compose([f"hydra.searchpath=['file://{tmp_path}']", "task=ill"]).task
    assert isinstance(task, TableConf)
    assert [column["name"] for column in task.columns] == ["age", "sex", "ill"]


def test_an_owner_s_own_file_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "contract.yaml").write_text("mine")

    assert main(["data", "contract", f"data.root={rows(tmp_path)}", "label=ill"]) == 2

    assert "MDW-127" in capsys.readouterr().err
    assert (tmp_path / "contract.yaml").read_text() == "mine"

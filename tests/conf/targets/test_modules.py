"""Importing a target: isolated, from what was counted, and with its own errors in clear words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from conf.errors import ConfigError
from conf.targets.modules import imported
from conf.targets.place import locate
from conf.targets.sources import read


def load(target: str) -> Any:
    return imported(read(locate(target, "task.target"), "task.target"), "task.target")


def package(folder: Path, value: int, importing: str = "import columns") -> Path:
    folder.mkdir()
    (folder / "columns.py").write_text(f"VALUE = {value}\n")
    (folder / "wine.py").write_text(
        f"{importing}\n\nclass Wine:\n    def late(self):\n        import columns\n"
        "        return columns.VALUE\n"
    )
    return folder


def test_two_files_of_one_name_with_neighbours_of_one_name_do_not_meet(tmp_path: Path) -> None:
    path = list(sys.path)
    first = load(f"{package(tmp_path / 'a', 1)}/wine.py:Wine")
    second = load(f"{package(tmp_path / 'b', 2)}/wine.py:Wine")
    assert (first().late(), second().late()) == (1, 2)
    assert sys.path == path
    assert "columns" not in sys.modules and "wine" not in sys.modules


@pytest.mark.parametrize(
    "importing",
    [
        "import columns as c",
        "from columns import VALUE",
        "from . import columns",
        "from .columns import *",
        "import json, columns, os.path",
    ],
)
def test_neighbours_are_imported_in_any_form(tmp_path: Path, importing: str) -> None:
    assert load(f"{package(tmp_path / 'a', 7, importing)}/wine.py:Wine")().late() == 7


def test_a_module_in_a_folder_binds_its_first_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/inner.py").write_text("X = 5\n")
    (tmp_path / "wine.py").write_text(
        "import deep.inner\nimport deep.inner as i\nX = deep.inner.X + i.X\nclass Wine: x = X\n"
    )
    assert load(f"{tmp_path}/wine.py:Wine").x == 10


def test_a_file_that_changes_after_it_was_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "columns.py").write_text("VALUE = 1\n")
    (tmp_path / "wine.py").write_text("from columns import VALUE\nclass Wine: x = VALUE\n")
    sources = read(locate(f"{tmp_path}/wine.py:Wine", "task.target"), "task.target")
    (tmp_path / "columns.py").write_text("raise SystemExit\n")
    assert imported(sources, "task.target").x == 1


def test_a_class_knows_its_file(tmp_path: Path) -> None:
    (tmp_path / "wine.py").write_text(
        "from pathlib import Path\nHERE = Path(__file__)\nclass Wine: x = HERE\n"
    )
    assert load(f"{tmp_path}/wine.py:Wine").x == tmp_path / "wine.py"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\nraise SystemExit(3)\n", "line 2 failed: SystemExit"),
        ("\n\n1 / 0\n", "line 3 failed: ZeroDivisionError"),
        ("import no_such_package\n", "requires"),
    ],
)
def test_what_a_file_raises_is_said_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "wine.py").write_text(f"{text}class Wine: pass\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="MDW-171") as caught:
            load(f"{tmp_path}/wine.py:Wine")
        assert says in str(caught.value) and str(tmp_path / "wine.py") in str(caught.value)


def test_a_name_that_only_running_would_tell_is_missed_then(tmp_path: Path) -> None:
    (tmp_path / "wine.py").write_text("if True:\n    class Wine: pass\n")
    with pytest.raises(ConfigError, match=r"MDW-170.*Did you mean 'Wine'"):
        load(f"{tmp_path}/wine.py:Wyne")

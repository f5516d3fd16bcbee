"""Where a target is: found without importing it, with words for what is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conf.errors import ConfigError
from conf.targets.place import MOST_MODULES, locate

EXITS = "raise SystemExit(3)\nclass Wine: pass\n"


def refused(target: str) -> str:
    with pytest.raises(ConfigError, match="MDW-170") as caught:
        locate(target, "task.target")
    return str(caught.value)


def test_a_file_is_found_from_any_folder_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wine.py").write_text(EXITS)
    monkeypatch.chdir(tmp_path)
    place = locate("wine.py:Wine", "task.target")
    assert (place.module, place.attribute, place.root) == ("wine", "Wine", tmp_path)
    assert place.name == "wine.Wine"
    assert place.target == f"{tmp_path}/wine.py:Wine"
    monkeypatch.chdir("/")
    assert locate(place.target, "task.target") == place


def test_a_folder_means_its_init_or_the_one_module_that_defines_the_name(tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/wine.py").write_text(EXITS)
    (tmp_path / "loose/broken.py").write_bytes(b"\xff\xfe")
    assert locate(f"{tmp_path}/loose:Wine", "task.target").module == "wine"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").write_text("from shop.wine import Wine\n")
    (tmp_path / "shop/wine.py").write_text(EXITS)
    place = locate(f"{tmp_path}/shop:Wine", "task.target")
    assert (place.module, place.root, place.name) == ("shop", tmp_path, "shop.Wine")
    assert locate(f"{tmp_path}/shop/wine.py:Wine", "task.target").module == "shop.wine"


def test_a_folder_in_which_none_or_several_define_the_name_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Wine: pass\n")
    (tmp_path / "b.py").write_text("class Wine: pass\n")
    assert "a.py, b.py" in refused(f"{tmp_path}:Wine")
    assert "these do: none" in refused(f"{tmp_path}:Beer")


def test_a_folder_of_ten_thousand_files_is_not_searched(tmp_path: Path) -> None:
    for number in range(MOST_MODULES + 1):
        (tmp_path / f"m{number}.py").write_text("")
    assert f"more than {MOST_MODULES}" in refused(f"{tmp_path}:Wine")


def test_an_import_path_is_found_without_importing_its_packages() -> None:
    locate("shutil.which", "task.target")
    before = set(sys.modules)
    place = locate("mlflow.store.tracking.file_store.FileStore", "task.target")
    assert place.installed and place.name == "mlflow.FileStore"
    assert place.target == "mlflow.store.tracking.file_store.FileStore"
    assert set(sys.modules) - before == set()


def test_an_import_path_of_the_current_folder_is_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("class Mine: pass\n")
    monkeypatch.chdir(tmp_path)
    place = locate("mine.Mine", "task.target")
    assert not place.installed and place.target == f"{tmp_path}/mine.py:Mine"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py:Wine", "there is no file nowhere.py"),
        ("nowhere:Wine", "there is no folder nowhere"),
        ("wine.py:9lives", "is not the name of a class"),
        ("Wine", "does not say where to look"),
        ("..app.Wine", "does not say where to look"),
        ("no_such_package.module.Wine", "there is no module"),
        ("client/tasks/digits.py:Digits", "of this tree"),
        ("client.tasks.digits.Digits", "of this tree"),
    ],
)
def test_what_is_not_there_is_said(target: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert says in refused(target)

"""What `meadow new` writes runs as it is, and it writes over nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from azureml_jobs.cli.new_files import example_rows


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "test", "files"),
    [
        ("task", "test_it_learns", ["own_wine.csv", "own_wine.py", "test_own_wine.py"]),
        ("model", "test_it_learns", ["own_wine.py", "test_own_wine.py"]),
        ("strategy", "test_it_learns_and_pulls", ["own_wine.py", "test_own_wine.py"]),
    ],
)
def test_what_it_writes_passes_its_own_test(
    kind: str, test: str, files: list[str], here: Path
) -> None:
    assert main(["new", kind, "own_wine"]) == 0
    assert sorted(path.name for path in here.iterdir()) == files
    written = importlib.util.spec_from_file_location(f"written_{kind}", here / "test_own_wine.py")
    assert written is not None and written.loader is not None
    module = importlib.util.module_from_spec(written)
    written.loader.exec_module(module)
    getattr(module, test)(here / "run")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Wine", "small letters"),
        ("my-wine", "small letters"),
        ("../wine", "small letters"),
        ("class", "small letters"),
        ("json", "would hide the other"),
        ("server", "would hide the other"),
    ],
)
def test_a_name_that_no_module_can_have_is_refused(
    name: str, why: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "task", name]) == 2
    said = capsys.readouterr().err
    assert "MDW-126" in said and why in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("there", ["wine.py", "test_wine.py", "wine.csv"])
def test_no_file_is_written_over_and_then_none_is_written(
    there: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / there).write_text("mine")
    assert main(["new", "task", "wine"]) == 2
    assert "MDW-127" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [there]
    assert (here / there).read_text() == "mine"


def test_the_example_rows_are_the_same_each_time() -> None:
    rows = example_rows().splitlines()
    assert rows == example_rows().splitlines()
    assert {row.rsplit(",")[-1] for row in rows[1:]} == {"0", "1", "2"}

"""The files of a target are those that it imports beside it, counted by what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.errors import ConfigError
from conf.targets import sources
from conf.targets.place import locate
from conf.targets.sources import Sources, read


def of(target: str) -> Sources:
    return read(locate(target, "task.target"), "task.target")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_neighbours_that_are_imported_count_and_no_other(tmp_path: Path) -> None:
    write(
        tmp_path,
        wine="import columns\nimport torch\nimport json\nclass Wine: pass\n",
        columns="def f():\n    from deep.inner import X\n",
        deep__in__inner="X = 1\n",
        json="raise SystemExit\n",
        client="raise SystemExit\n",
        torch="raise SystemExit\n",
        other="raise SystemExit\n",
    )
    assert set(of(f"{tmp_path}/wine.py:Wine").files) == {"wine", "columns", "deep.inner"}


def test_relative_imports_of_a_package_count_with_their_packages(tmp_path: Path) -> None:
    write(
        tmp_path,
        shop__in____init__="",
        shop__in__wine="from . import columns\nfrom .sub.more import Y\nclass Wine: pass\n",
        shop__in__columns="",
        shop__in__sub__in__more="Y = 1\n",
    )
    found = of(f"{tmp_path}/shop/wine.py:Wine")
    assert set(found.files) == {"shop", "shop.wine", "shop.columns", "shop.sub.more"}
    assert found.packages == {"shop", "shop.sub"}


def test_the_digest_is_of_what_the_code_means_not_of_where_it_lies(tmp_path: Path) -> None:
    here = write(tmp_path / "a", wine="import columns\nclass Wine: pass\n", columns="X = 1\n")
    there = write(
        tmp_path / "b",
        wine='"""A word."""\nimport columns  # why\n\n\nclass Wine:\n    pass\n',
        columns="X = 1\n",
    )
    first = of(f"{here}/wine.py:Wine").digest
    assert first == of(f"{there}/wine.py:Wine").digest
    write(there, columns="X = 2\n")
    assert first != of(f"{there}/wine.py:Wine").digest


def test_what_meadow_stands_on_counts_by_its_import_path_alone() -> None:
    adam = of("flwr.serverapp.strategy.FedAdam")
    assert adam.files == {} and adam.digest != of("flwr.serverapp.strategy.FedAvg").digest


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"class Wine:\n  def (\n", "line 2"),
        (b"\xff\xfe\x00", "can't be read as Python"),
        (b"x = '\xe9'\n", "can't be read as Python"),
    ],
)
def test_a_file_that_is_not_python_is_named_with_its_line(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "wine.py").write_bytes(content)
    with pytest.raises(ConfigError, match="MDW-171") as caught:
        of(f"{tmp_path}/wine.py:Wine")
    assert says in str(caught.value) and "wine.py" in str(caught.value)


def test_a_target_that_reaches_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MOST_FILES", 3)
    write(tmp_path, m0="class Wine: pass\nimport m1", m1="import m2", m2="import m3", m3="")
    with pytest.raises(ConfigError, match=r"MDW-170.*more than 3 files"):
        of(f"{tmp_path}/m0.py:Wine")

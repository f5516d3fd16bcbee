"""What the file system of a folder can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conf.files.kinds import folds_case, keeps_modes


def test_an_ordinary_folder_keeps_modes_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert keeps_modes(tmp_path)
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_one_that_gives_everything_to_everybody_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def everybody_s(path: Path, **kwargs: bool) -> os.stat_result:
        found = real(path, **kwargs)
        return os.stat_result((found.st_mode | 0o777, *found[1:]))

    monkeypatch.setattr(Path, "stat", everybody_s)
    assert not keeps_modes(tmp_path)


def test_names_that_differ_in_case_are_two_here(tmp_path: Path) -> None:
    """`tests/faults/test_foreign_disks.py` has a file system that folds them."""
    path = tmp_path / "North"
    path.touch()
    assert not folds_case(path)
    (tmp_path / "nORTH").touch()
    assert not folds_case(path)
    (tmp_path / "123").touch()
    assert not folds_case(tmp_path / "123")

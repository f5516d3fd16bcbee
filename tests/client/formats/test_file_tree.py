"""Which files of a folder are found: links to folders are left out, closed folders are errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.formats.file_tree import files_under


def test_files_at_any_depth_and_links_to_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.csv").touch()
    (tmp_path / "y.csv").symlink_to(tmp_path / "a/b/x.csv")
    assert sorted(path.name for path in files_under(tmp_path)) == ["x.csv", "y.csv"]


def test_a_link_round_in_a_circle_or_to_nothing_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "x.csv").touch()
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    assert [path.name for path in files_under(tmp_path)] == ["x.csv"]
    assert f"{tmp_path / 'round'} is a link to a folder" in caplog.text
    assert "gone.csv is no file, or a link to nothing" in caplog.text


def test_a_folder_that_may_not_be_entered_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    scan: Callable[..., Iterator[os.DirEntry[str]]] = os.scandir

    def closed(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    # Not by its mode: whoever runs tests may be root.
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError) as caught:
        list(files_under(tmp_path))
    assert caught.value.filename == str(tmp_path / "closed")

"""A plain file is read, and nothing that only looks like one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conf.files.plain import NotPlain, opened_plain


def test_a_file_is_read_with_its_status(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    with opened_plain(path) as (file, status):
        assert file.read() == b"content" and status.st_size == 7


def test_a_link_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(NotPlain), opened_plain(tmp_path / name):
            raise AssertionError("it was opened")
    with pytest.raises(IsADirectoryError), opened_plain(tmp_path):
        raise AssertionError("it was opened")
    with pytest.raises(FileNotFoundError), opened_plain(tmp_path / "none"):
        raise AssertionError("it was opened")

"""A file is the old one or the new one, and nothing is left beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import server.run.files
from conf.atomic_files import append_line, write_atomic
from conf.errors import CheckpointError


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "first")
    write_atomic(path, "zweite Fassung, größer".encode())
    assert path.read_text(encoding="utf-8") == "zweite Fassung, größer"
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    with pytest.raises(CheckpointError, match="MDW-513: The disk is full"):
        server.run.files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_parts_are_written_one_after_another(tmp_path: Path) -> None:
    write_atomic(tmp_path / "update", iter([b"head\n", b"", b"body"]))
    assert (tmp_path / "update").read_bytes() == b"head\nbody"


def test_a_private_file_is_the_owner_s_alone_whatever_the_umask_and_the_old_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write_atomic(path, b"secret", mode=0o600)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_the_disk_takes_half_of_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "metrics.jsonl", os.write
    append_line(path, "first")

    def half(file: int, data: memoryview) -> int:
        if len(data) < 5:
            raise OSError(28, "No space left on device")
        return write(file, data[:5])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        append_line(path, "second")
    monkeypatch.setattr(os, "write", write)
    append_line(path, "third")
    assert path.read_text() == "first\nthird\n"

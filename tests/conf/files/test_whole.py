"""A file is the old one or the new one, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

import server.run.files
from conf.errors import CheckpointError
from conf.files import whole
from conf.files.faults import FileFault
from conf.files.whole import (
    TEMPORARY,
    append_durably,
    append_line,
    create,
    make_folder,
    put_new,
    write_atomic,
)
from tests.faults.failing_calls import CODES, WRITING, calls_of, each_failure, failing


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
    with pytest.raises(OSError, match="MDW-513"):
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
    with pytest.raises(OSError, match="MDW-513"):
        append_line(path, "second")
    monkeypatch.setattr(os, "write", write)
    append_line(path, "third")
    assert path.read_text() == "first\nthird\n"


# ---- each call fails once, with each errno of the family


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY)]


@pytest.mark.parametrize("work", ["write", "create", "append", "append durably", "folder"])
def test_whatever_call_fails_a_file_is_the_old_or_the_new_and_the_cause_is_the_true_one(
    tmp_path: Path, work: str
) -> None:
    def act(folder: Path) -> bytes:
        """Do the work, and return what the file has to hold then."""
        path = folder / "file"
        if work == "write":
            write_atomic(path, b"new")
            return b"new"
        if work == "create":
            assert create(path.with_name("fresh"), b"new")
            return b"new"
        if work == "folder":
            make_folder(path.with_name("a") / "b")
            return b"old\n"
        if work == "append":
            append_line(path, "new")
        else:
            append_durably(path, b"new\n")
        return b"old\nnew\n"

    def folder(name: str) -> Path:
        made = tmp_path / name
        made.mkdir()
        (made / "file").write_bytes(b"old\n")
        return made

    clean = folder("clean")
    calls = calls_of(clean, lambda: act(clean))
    done = 0
    for at, name, number in each_failure(calls):
        place = folder(f"{at}-{number}")
        case = f"{work}: call {at} ({name}) fails with {errno.errorcode[number]}"
        target = place / ("fresh" if work == "create" else "file")
        before = target.read_bytes() if target.exists() else None
        with failing(place, at, number) as faults:
            try:
                wanted = act(place)
            except FileFault as fault:
                assert fault.code == CODES[number], case
                # A name that could not be made to last is there: the content is whole all the same.
                now = target.read_bytes() if target.exists() else None
                assert now in (before, b"new", b"old\nnew\n"), case
                assert name in WRITING | {"open", "stat", "fstat", "lstat", "read"}, case
            else:
                done += 1
                assert faults.failed == name, case
                assert (target.read_bytes() if work != "folder" else b"old\n") == wanted, case
        # Where the removal itself fails, it is swept later.
        assert name == "unlink" or left_over(place) == [], case
    assert done or work == "append", "some of it is worked around"


def test_a_file_is_made_once_where_there_are_no_links_nor_renames_that_replace_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert create(tmp_path / "a", b"1") and not create(tmp_path / "a", b"2")
    monkeypatch.setattr(whole, "_renamed", lambda *_: None)
    assert create(tmp_path / "b", b"1") and not create(tmp_path / "b", b"2")
    # Behind the look that saves the work, the lock decides.
    temporary = tmp_path / f"{TEMPORARY}x"
    temporary.write_bytes(b"3")
    assert not put_new(temporary, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"1"


@pytest.mark.parametrize("way", ["links", "renames", "a lock"])
def test_of_many_that_want_one_name_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "links":
        monkeypatch.setattr(whole, "_linked", lambda *_: None)
    if way == "a lock":
        monkeypatch.setattr(whole, "_renamed", lambda *_: None)
    for name in ("a", "b", "c"):
        start = threading.Barrier(4)
        got: list[int] = []

        def want(number: int, path: Path, start: threading.Barrier, got: list[int]) -> None:
            start.wait()
            if create(path, str(number)):
                got.append(number)

        path = tmp_path / name
        threads = [threading.Thread(target=want, args=(n, path, start, got)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1 and path.read_text() == str(got[0])


def test_where_nothing_is_renamed_over_a_file_the_old_one_steps_aside_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "file", os.rename
    path.write_bytes(b"old")

    def over_nothing(source: Path, target: Path) -> None:
        if os.path.exists(target):
            raise OSError(errno.EEXIST, "File exists")
        rename(source, target)

    monkeypatch.setattr(os, "replace", over_nothing)
    monkeypatch.setattr(os, "rename", over_nothing)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and left_over(tmp_path) == []

    def fails_once(source: Path, target: Path) -> None:
        if target == path and source.name.startswith(TEMPORARY) and source.read_bytes() == b"3":
            raise OSError(errno.EIO, "Input/output error")
        over_nothing(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(FileFault, match="MDW-515"):
        write_atomic(path, b"3")
    assert path.read_bytes() == b"new" and left_over(tmp_path) == []


def test_a_disk_that_takes_nothing_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with pytest.raises(FileFault, match="MDW-515"):
        write_atomic(tmp_path / "file", b"x")

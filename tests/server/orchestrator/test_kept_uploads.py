"""What is kept of slow uploads: read back as it was sent, private, bounded, and never in the way of anything."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.orchestrator.kept_uploads import KeptUploads, Part

ID = hashlib.sha256(b"an object").hexdigest()
FIRST = Part(ID, 300, 0, b"a" * 100)
SECOND = Part(ID, 300, 100, b"b" * 50)
NODES = {7, 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


def opened(folder: Path, run: str = "run", **limits: int) -> KeptUploads:
    kept = KeptUploads(folder, **limits)
    assert list(kept.open(run, NODES)) == []
    return kept


def found(folder: Path, run: str = "run") -> dict[int, tuple[str, list[Part]]]:
    """What the next process finds."""
    kept = KeptUploads(folder)
    return {one.node: (one.content, list(one.parts)) for one in kept.open(run, NODES)}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_process_finds_what_was_kept_and_goes_on_with_it(folder: Path) -> None:
    kept = opened(folder)
    kept.begin(7, "content", [FIRST])
    kept.add(7, "content", SECOND)
    assert found(folder) == {7: ("content", [FIRST, SECOND])}
    after = KeptUploads(folder)
    for upload in after.open("run", NODES):
        assert list(upload.parts) == [FIRST, SECOND]
    assert after.has(7, "content") and not after.has(7, "another") and not after.has(8, "content")
    after.add(7, "content", Part(ID, 300, 150, b"c"))
    assert len(found(folder)[7][1]) == 3


def test_a_part_that_is_torn_is_left_out_and_what_follows_is_written_in_its_place(
    folder: Path,
) -> None:
    kept = opened(folder)
    kept.begin(7, "content", [FIRST, SECOND])
    path = folder / "7.upload"
    whole = path.read_bytes()
    for length in range(len(whole) - 1, len(whole) - 100, -7):
        path.write_bytes(whole[:length])
        assert found(folder) == {7: ("content", [FIRST])}
        path.write_bytes(whole[:length])
        after = KeptUploads(folder)
        assert [list(upload.parts) for upload in after.open("run", NODES)] == [[FIRST]]
        after.add(7, "content", SECOND)
        assert path.read_bytes() == whole


def test_a_part_with_another_byte_and_all_behind_it_are_left_out(folder: Path) -> None:
    opened(folder).begin(7, "content", [FIRST, SECOND])
    path = folder / "7.upload"
    path.write_bytes(path.read_bytes().replace(b"a" * 100, b"a" * 99 + b"x"))
    assert found(folder) == {7: ("content", [])}


@pytest.mark.parametrize(
    "bytes",
    [
        b"",
        b"\n",
        b"{}\n",
        b"x" * 9000,
        b"[" * 4000,
        b'{"upload":1,"run":"run","node":[],"content":""}\n',
    ],
)
def test_a_file_that_is_none_of_ours_is_deleted(folder: Path, bytes: bytes) -> None:
    folder.mkdir(0o700)
    (folder / "7.upload").write_bytes(bytes)
    assert found(folder) == {} and files(folder) == []


def test_a_length_beyond_the_file_takes_no_memory(folder: Path) -> None:
    opened(folder).begin(7, "content", [])
    with (folder / "7.upload").open("ab") as file:
        file.write(b'{"id":"a","size":1,"start":0,"length":999999999999,"sha256":"b"}\n')
    assert found(folder) == {7: ("content", [])}


def test_of_another_run_or_of_a_silo_that_it_does_not_name_nothing_stays(folder: Path) -> None:
    kept = opened(folder)
    kept.begin(7, "content", [FIRST])
    kept.begin(9, "content", [FIRST])
    assert set(found(folder)) == {7} and files(folder) == ["7.upload"]
    assert found(folder, "another run") == {} and files(folder) == []


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "somebody's"
    target.write_text("precious")
    folder.mkdir(0o700)
    (folder / "7.upload").symlink_to(target)
    kept = opened(folder)
    (folder / "8.upload").symlink_to(target)
    kept.begin(8, "content", [FIRST])
    assert target.read_text() == "precious"


def test_files_are_the_owner_s_alone(folder: Path) -> None:
    opened(folder).begin(7, "content", [FIRST])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "7.upload").stat().st_mode) == 0o600


def test_in_a_folder_that_others_may_read_nothing_is_kept(folder: Path) -> None:
    folder.mkdir(0o755)
    folder.chmod(0o755)
    opened(folder).begin(7, "content", [FIRST])
    assert files(folder) == []


def test_beyond_its_bytes_an_upload_is_given_up_and_the_others_stay(folder: Path) -> None:
    kept = opened(folder, most=1000)
    kept.begin(7, "content", [FIRST])
    kept.begin(8, "content", [Part(ID, 5000, 0, b"x" * 900)])
    assert files(folder) == ["7.upload"]
    kept.add(8, "content", SECOND)
    assert kept.has(8, "content"), "it is not begun again with each part"
    assert set(found(folder)) == {7}


def test_a_disk_that_is_nearly_full_keeps_no_upload(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = opened(folder, spare=2**62)
    kept.begin(7, "content", [FIRST])
    kept.add(7, "content", SECOND)
    assert files(folder) == []
    assert len([one for one in caplog.messages if "is not kept on disk" in one]) == 1


def test_two_calls_that_begin_at_once_lose_no_part(folder: Path) -> None:
    for turn in range(20):
        kept = opened(folder, run=f"run-{turn}")
        parts = [Part(ID, 300, 10 * i, bytes([i]) * 10) for i in range(8)]

        def one(part: Part, kept: KeptUploads = kept) -> None:
            kept.begin(7, "content", [FIRST])
            kept.add(7, "content", part)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, parts))
        first, *others = found(folder, run=f"run-{turn}")[7][1]
        assert first == FIRST and sorted(others, key=lambda part: part.start) == parts


def test_a_silo_that_is_asked_something_else_has_its_file_deleted(folder: Path) -> None:
    kept = opened(folder)
    kept.begin(7, "content", [FIRST])
    kept.drop(7, unless="content")
    assert files(folder) == ["7.upload"]
    kept.drop(7, unless="another")
    assert files(folder) == []
    kept.add(7, "content", SECOND)
    assert files(folder) == []


def test_when_the_run_has_ended_nothing_is_left(folder: Path) -> None:
    kept = opened(folder)
    kept.clear()
    kept.begin(7, "content", [FIRST])
    kept.begin(8, "content", [FIRST])
    KeptUploads(folder).clear()
    assert files(folder) == []

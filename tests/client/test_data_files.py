"""A silo's files: a change is seen, and told to others by a keyed digest and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.node_key import data_key_of
from client import data_files
from client.data_files import KEY_ID, MAC, files_at, fingerprint, seen_anew

KEY = b"k" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "more").mkdir(parents=True)
    (root / "a.npz").write_bytes(b"aaaa")
    (root / "more/b.npz").write_bytes(b"bbbb")
    return root


def made(root: Path, key: bytes = KEY) -> str:
    return fingerprint(str(root), seen_anew(str(root)), key)


def as_it_was(path: Path, facts: os.stat_result) -> None:
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_change_is_seen_in_size_time_name_and_inode(root: Path) -> None:
    before = seen_anew(str(root))
    assert [one.path for one in before] == ["a.npz", "more/b.npz"]
    path = root / "a.npz"
    facts = path.stat()
    other = root / "fresh"
    other.write_bytes(b"AAAA")
    as_it_was(other, facts)
    other.replace(path)
    replaced = seen_anew(str(root))
    assert replaced != before, "same name, size and time, another file"
    path.rename(root / "c.npz")
    assert seen_anew(str(root)) != replaced


def test_a_file_alone_a_missing_one_and_no_root_are_all_answered(root: Path) -> None:
    (alone,) = files_at(str(root / "a.npz"))
    assert (alone.path, alone.size) == (".", 4)
    assert files_at(str(root / "none")) == () and files_at(None) == ()
    assert fingerprint(str(root / "a.npz"), (alone,), KEY)
    (root / "dangling").symlink_to("nothing")
    assert len(seen_anew(str(root))) == 2


def test_looks_cost_a_small_part_of_the_time_however_many_files_there_are(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = data_files._looked

    def slow(place: str) -> object:
        looked.append(place)
        return real(place)

    monkeypatch.setattr(data_files, "_looked", slow)
    first = files_at(str(root))
    data_files._looks[str(root)].took = 3600.0
    (root / "new.npz").write_bytes(b"x")
    assert files_at(str(root)) == first and len(looked) == 1
    assert len(seen_anew(str(root))) == 3


def test_a_fingerprint_changes_with_names_and_contents_and_with_nothing_else(root: Path) -> None:
    before = made(root)
    assert made(root) == before
    os.utime(root / "a.npz", (1, 1))
    assert made(root) == before, "only a time"
    moved = root.with_name("elsewhere")
    root.rename(moved)
    assert made(moved) == before, "only its place"
    (moved / "a.npz").write_bytes(b"AAAA")
    changed = made(moved)
    assert changed != before
    (moved / "a.npz").rename(moved / "c.npz")
    assert made(moved) not in (before, changed)


def test_of_a_large_set_names_sizes_and_times_are_what_it_is_made_of(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "SMALL_BYTES", 7)
    before = made(root)
    assert made(root) == before
    path = root / "a.npz"
    facts = path.stat()
    path.write_bytes(b"AAAA")
    as_it_was(path, facts)
    assert made(root) == before, "what it does not prove"
    os.utime(path, (1, 1))
    assert made(root) != before


def test_without_the_key_nobody_can_try_data_of_their_own_against_it(root: Path) -> None:
    ours, theirs = made(root), made(root, b"guess" * 8)
    assert ours.partition("-")[2] != theirs.partition("-")[2]
    assert ours.partition("-")[0] != theirs.partition("-")[0], "whose key it is can be told apart"
    assert len(ours) == KEY_ID + 1 + MAC
    assert fingerprint(str(root), seen_anew(str(root)), b"") == ""


def test_the_key_is_the_silo_s_own_and_the_same_as_long_as_its_node_key_is() -> None:
    one, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    assert data_key_of(one) == data_key_of(one) != data_key_of(other)
    assert len(data_key_of(one)) == 32


def test_a_name_can_not_be_mistaken_for_content(root: Path, tmp_path: Path) -> None:
    """Parts have their lengths before them, so that no two sets are one text."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.npz4").write_bytes(b"")
    (root / "more/b.npz").unlink()
    assert made(root) != made(other)


def test_a_thousand_files_are_looked_at_in_a_moment(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).touch()
    began = time.process_time()
    assert len(seen_anew(str(tmp_path))) == 1000
    assert time.process_time() - began < 1.0

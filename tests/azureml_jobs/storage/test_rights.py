"""One store to its users, and to the file system a folder for each right."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from azureml_jobs.storage.base import LeaseLost, Store, StoreMissing
from azureml_jobs.storage.prefix import PrefixStore
from azureml_jobs.storage.rights import LARGEST, PLACES, QUEUE
from conf.errors import CheckpointError
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in

WHERE = {
    "queue/requests/1.a": "queue/requests/1.a",
    "queue/cancelled/1.a": "queue/cancelled/1.a",
    "queue/begun/a": "results/begun/a",
    "queue/ended/1.a": "results/ended/1.a",
    "results/a/result.json": "results/runs/a/result.json",
    "orchestrator.json": "results/orchestrator.json",
    "store.json": "results/store.json",
    "keys/admitted/x.json": "admissions/admitted/x.json",
    "keys/revoked/x.json": "admissions/revoked/x.json",
    "runs/a/checkpoints/round-1": "store/runs/a/checkpoints/round-1",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = store_in(FederationFolder(tmp_path))
    for name in WHERE:
        assert made.put_if_absent(name, name.encode())
    return made


def test_each_name_lies_in_the_place_of_its_right(store: Store, tmp_path: Path) -> None:
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == set(WHERE.values())


def test_to_its_users_it_is_one_store(store: Store) -> None:
    assert store.list() == sorted(WHERE)
    for prefix in ("queue/", "queue/requests/", "queue/ended/1", "keys/", "runs/", "results/a/"):
        assert store.list(prefix) == sorted(name for name in WHERE if name.startswith(prefix))
    for name in WHERE:
        assert store.read(name) == name.encode()
        assert not store.put_if_absent(name, b"other")
        store.replace(name, b"new")
        assert store.read(name) == b"new"
        store.delete(name)
        with pytest.raises(StoreMissing):
            store.read(name)


def test_who_has_lost_the_lease_writes_to_none_of_its_places(store: Store) -> None:
    lease = store.acquire("orchestrator", "first", 60)
    assert lease is not None
    first = PrefixStore(store, lease=lease)
    for name in WHERE:
        first.replace(name, b"first")
    store.release(lease)
    assert store.acquire("orchestrator", "second", 60) is not None
    for name in WHERE:
        with pytest.raises(LeaseLost):
            first.replace(name, b"late")
        assert store.read(name) == b"first"


def test_a_place_of_a_group_is_written_for_the_group_and_no_other(tmp_path: Path) -> None:
    folder = FederationFolder(tmp_path)
    folder.place(QUEUE).mkdir(mode=0o700)
    folder.place(QUEUE).chmod(0o2770)
    store = store_in(folder)
    store.put_if_absent("queue/requests/1.a", b"")
    store.put_if_absent("keys/admitted/x.json", b"")
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    assert modes["queue/requests"] == 0o2770
    assert modes["queue/requests/1.a"] == 0o660
    assert modes["admissions/admitted"] == 0o700
    assert modes["admissions/admitted/x.json"] == 0o600


@pytest.mark.parametrize("place", PLACES)
def test_a_link_from_one_place_leads_to_no_other(tmp_path: Path, place: str) -> None:
    store = store_in(FederationFolder(tmp_path))
    store.put_if_absent("runs/a/secret", b"secret")
    inside = {"queue": "queue/requests/", "admissions": "keys/admitted/", "results": "queue/ended/"}
    folder = tmp_path / place / inside[place].split("/")[1]
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(tmp_path / "store" / "runs" / "a")
    for look in (
        lambda: store.list(inside[place]),
        lambda: store.read(inside[place] + "secret"),
        lambda: store.replace(inside[place] + "secret", b"mine"),
    ):
        with pytest.raises(CheckpointError, match="MDW-517"):
            look()
    assert store.read("runs/a/secret") == b"secret"


def test_what_is_no_plain_file_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    store = store_in(FederationFolder(tmp_path))
    store.put_if_absent("queue/requests/1.a", b"")
    folder = tmp_path / "queue" / "requests"
    (folder / "2.link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "3.pipe")
    (folder / "4.loop").symlink_to("4.loop")
    assert store.list("queue/requests/") == [
        f"queue/requests/{name}" for name in ("1.a", "2.link", "3.pipe", "4.loop")
    ]
    for name in ("2.link", "3.pipe", "4.loop"):
        with pytest.raises(CheckpointError, match="MDW-517"):
            store.read(f"queue/requests/{name}")


def test_what_is_larger_than_its_place_allows_is_not_read(tmp_path: Path) -> None:
    store = store_in(FederationFolder(tmp_path))
    store.put_if_absent("queue/requests/1.a", b"")
    with (tmp_path / "queue" / "requests" / "2.b").open("wb") as file:
        file.truncate(LARGEST[QUEUE] + 1)
    with pytest.raises(CheckpointError, match="MDW-517"):
        store.read("queue/requests/2.b")


def test_names_that_nobody_can_ask_for_are_not_listed(tmp_path: Path) -> None:
    store = store_in(FederationFolder(tmp_path))
    store.put_if_absent("queue/requests/1.a", b"")
    folder = os.fsencode(tmp_path / "queue" / "requests")
    for name in (b"a b", b"-x", b"x\n", b"\xff\xfe", b"x" * 250, b"x."):
        with open(os.path.join(folder, name), "wb"):
            pass
    assert [n for n in store.list("queue/requests/") if "xxx" not in n] == ["queue/requests/1.a"]

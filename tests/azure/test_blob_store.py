"""The store's contract, held by a folder and by a blob container alike; and who may use the container."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.identity import DefaultAzureCredential
from azure.storage.blob import ContainerClient

from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.storage.base import Lease, LeaseLost, Store, StoreMissing
from azureml_jobs.storage.blob_store import BlobStore
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.lease import Leases
from azureml_jobs.storage.pointer import digest, follow, point
from azureml_jobs.storage.prefix import PrefixStore
from conf.errors import AzureError, CheckpointError
from tests.azureml_jobs.storage.watching import Clock, taken_over


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Watched(BlobStore):
    """A store that does not say how old a record is, so that the clock of the test counts."""

    def unchanged_for(self, name: str) -> float | None:
        return None


@pytest.fixture(params=["folder", "blobs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path, clock)
    cloud: LoopbackCloud = request.getfixturevalue("cloud")
    return Watched(cloud.accounts.container("hub", "store"), f"test-{uuid.uuid4().hex}", clock)


def test_what_is_put_is_read_listed_and_deleted(store: Store) -> None:
    assert store.put_if_absent("a/b.bin", b"\x00\xff")
    assert store.put_if_absent("c", b"")
    assert store.read("a/b.bin") == b"\x00\xff"
    assert store.list() == ["a/b.bin", "c"]
    assert store.list("a/") == ["a/b.bin"]
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert store.list() == ["c"]
    with pytest.raises(StoreMissing, match="MDW-510"):
        store.read("a/b.bin")


def test_a_name_is_put_once_and_replaced_whole(store: Store) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.read("a") == b"first"
    store.replace("a", memoryview(b"third"))
    assert store.read("a") == b"third"


def test_of_many_who_put_one_succeeds(store: Store) -> None:
    won: list[int] = []
    threads = [
        threading.Thread(
            target=lambda i=i: won.append(i) if store.put_if_absent("one", b"%d" % i) else None
        )
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and store.read("one") == b"%d" % won[0]


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a//b", "a/../b", ".a", "a/.b", "a b", "a.", "ä", "x" * 513]
)
def test_names_that_lead_elsewhere_are_refused(store: Store, name: str) -> None:
    for act in (store.read, lambda n: store.put_if_absent(n, b""), lambda n: store.replace(n, b"")):
        with pytest.raises(CheckpointError, match="MDW-511"):
            act(name)


def test_a_pointer_is_followed_and_damage_is_seen(store: Store) -> None:
    store.put_if_absent("v1", b"weights")
    point(store, "current", "v1", digest(b"weights"))
    assert follow(store, "current") == ("v1", b"weights")
    store.replace("v1", b"other")
    with pytest.raises(CheckpointError, match="MDW-517"):
        follow(store, "current")


def test_one_owner_at_a_time_holds_a_lease(store: Store, clock: Clock) -> None:
    first = store.acquire("server", "one", 60)
    assert first is not None and first.epoch == 1
    assert store.acquire("server", "two", 60) is None
    clock.now += 30
    assert store.renew(first, 60).beat == 1
    second = taken_over(store, "server", "two", 60, clock)
    assert second.epoch == 2
    with pytest.raises(LeaseLost, match="MDW-516"):
        store.renew(first, 60)
    with pytest.raises(LeaseLost):
        store.replace("a", b"late", under=first)
    assert "a" not in store.list()
    store.replace("a", b"now", under=second)


def test_who_lost_the_lease_puts_and_replaces_nothing(store: Store, clock: Clock) -> None:
    first = store.acquire("live", "one", 20)
    assert first is not None
    part = PrefixStore(store, "runs/a/", first)
    assert part.put_if_absent("segment", b"1")
    taken_over(store, "live", "two", 20, clock)
    for write in (lambda: part.put_if_absent("other", b"2"), lambda: part.replace("pointer", b"2")):
        with pytest.raises(LeaseLost):
            write()
    assert store.list("runs/") == ["runs/a/segment"]


def test_a_lease_given_up_is_free_at_once_and_counts_on(store: Store) -> None:
    first = store.acquire("server", "one", 60)
    assert first is not None
    store.release(first)
    second = store.acquire("server", "two", 60)
    assert second is not None and second.epoch == 2
    store.release(first)
    store.renew(second, 60)


def test_of_many_who_want_a_lease_one_gets_it(store: Store) -> None:
    got = []
    threads = [
        threading.Thread(target=lambda i=i: got.append(store.acquire("server", f"o{i}", 60)))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.epoch for lease in got if lease is not None] == [1]


def test_a_damaged_lease_says_so(store: Store) -> None:
    store.replace("server.lease", b"not JSON")
    with pytest.raises(CheckpointError, match="MDW-517"):
        store.acquire("server", "one", 60)


def test_a_run_has_its_part(store: Store) -> None:
    below = PrefixStore(store, "runs/r1/")
    assert below.put_if_absent("a", b"1")
    assert store.list() == ["runs/r1/a"] and below.list() == ["a"]


def test_how_old_a_lease_is_is_said_by_the_storage_s_clock_and_not_by_a_machine_s(
    cloud: LoopbackCloud,
) -> None:
    container, prefix = cloud.accounts.container("hub", "store"), f"test-{uuid.uuid4().hex}"
    first, second = (BlobStore(container, prefix, Clock(now)) for now in (1e9, -1e9))
    lease = first.acquire("server", "one", 1.0)
    assert lease is not None
    assert second.acquire("server", "two", 1.0) is None, "it is fresh, whatever the clocks say"
    deadline = time.monotonic() + 30
    while second.unchanged_for("server.lease") < 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # At the first look of a process that was not there before.
    third = BlobStore(container, prefix, Clock())
    taken = third.acquire("server", "three", 1.0)
    assert taken is not None and taken.epoch == 2
    assert third.unchanged_for("none.lease") is None


# ---- through the front door: https, real host names, an identity


def signed_in(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch, name: str) -> BlobStore:
    for key, value in cloud.signed_in_as(name).items():
        monkeypatch.setenv(key, value)
    cloud.accounts.container("hub", "store")
    return BlobStore.at(
        "https://hub.blob.core.windows.net/store/front", DefaultAzureCredential(), retries=0
    )


def test_the_store_works_with_an_identity_of_its_own(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.access.grant("hub/server", "Storage Blob Data Contributor", "storage:hub")
    store = signed_in(cloud, monkeypatch, "hub/server")
    name = uuid.uuid4().hex
    assert store.put_if_absent(name, b"x" * 100_000)
    assert store.read(name) == b"x" * 100_000 and name in store.list()
    assert not store.put_if_absent(name, b"y")
    lease = store.acquire(f"{name}-lease", "one", 60)
    assert lease is not None and store.renew(lease, 60).epoch == 1
    assert cloud.request_log.refused() == []


def test_a_refusal_names_the_identity_and_the_role(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = signed_in(cloud, monkeypatch, "north/gpu")
    with pytest.raises(
        CheckpointError,
        match=r"MDW-514.*north/gpu.*Grant that identity the role 'Storage Blob Data",
    ):
        store.put_if_absent("a", b"")
    assert [(t.identity, t.resource) for t in cloud.request_log.refused()] == [
        ("north/gpu", "storage:hub/store")
    ]


def test_who_is_not_signed_in_any_more_is_told_so(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.access.grant("hub/server", "Storage Blob Data Contributor", "storage:hub")
    store = signed_in(cloud, monkeypatch, "hub/server")
    assert store.list("gone/") == []
    with monkeypatch.context() as later:
        later.setattr(cloud.tokens, "life", -10.0)  # what is issued from now on has expired
        with pytest.raises(AzureError, match=r"MDW-803.*expired"):
            signed_in(cloud, monkeypatch, "hub/server").list()
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    with pytest.raises(AzureError, match="MDW-803"):
        BlobStore.at(
            "https://hub.blob.core.windows.net/store", DefaultAzureCredential(), retries=0
        ).list()


def test_one_account_s_key_opens_no_other(cloud: LoopbackCloud) -> None:
    wrong = {"account_name": "north", "account_key": cloud.accounts.keys["hub"]}
    stolen = ContainerClient(
        "https://north.blob.core.windows.net", "store", credential=wrong, retry_total=0
    )
    with pytest.raises(CheckpointError, match="MDW-514"):
        BlobStore(stolen).list()
    with pytest.raises(Exception, match="Auth"):
        stolen.create_container()


class OvertakenLeases(Leases):
    """Leases of a process that sleeps after each look at its own, while a successor works."""

    def __init__(self, store: BlobStore, clock: Clock, meanwhile: Callable[[], None]) -> None:
        super().__init__(store, "the store", clock)
        self._meanwhile = meanwhile

    def check(self, lease: Lease) -> str:
        version = super().check(lease)
        self._meanwhile()
        return version


class Overtaken(Watched):
    """A store whose process sleeps between the look at its lease and its write."""

    def __init__(
        self, container: ContainerClient, prefix: str, clock: Clock, meanwhile: Callable[[], None]
    ) -> None:
        super().__init__(container, prefix, clock)
        self._leases = OvertakenLeases(self, clock, meanwhile)


@pytest.mark.parametrize("before", [b"old", None])
def test_who_loses_the_lease_in_the_middle_of_a_write_overwrites_nothing_of_its_successor_s(
    cloud: LoopbackCloud, clock: Clock, before: bytes | None
) -> None:
    container, prefix = cloud.accounts.container("hub", "store"), f"test-{uuid.uuid4().hex}"
    second = Watched(container, prefix, clock)

    def meanwhile() -> None:
        lease = taken_over(second, "server", "two", 60, clock)
        second.replace("current", b"of the second", under=lease)

    first = Overtaken(container, prefix, clock, meanwhile)
    if before is not None:
        second.put_if_absent("current", before)
    lease = first.acquire("server", "one", 60)
    assert lease is not None
    with pytest.raises(LeaseLost, match="MDW-516"):
        first.replace("current", b"of the first", under=lease)
    assert second.read("current") == b"of the second"


def test_a_write_that_came_late_does_not_stop_the_successor(
    cloud: LoopbackCloud, clock: Clock
) -> None:
    container, prefix = cloud.accounts.container("hub", "store"), f"test-{uuid.uuid4().hex}"
    first = BlobStore(container, prefix, clock)
    late = [b"late"]

    def meanwhile() -> None:
        if late:
            first.replace("current", late.pop())

    second = Overtaken(container, prefix, clock, meanwhile)
    lease = second.acquire("server", "two", 60)
    assert lease is not None
    second.replace("current", b"of the second", under=lease)
    assert first.read("current") == b"of the second" and not late

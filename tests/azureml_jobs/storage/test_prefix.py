"""The part of a store under a prefix is a store, and writes under its lease alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.base import LeaseLost, Store
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.prefix import PrefixStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "state")


def test_the_part_of_a_store_below_a_prefix_is_a_store(store: FolderStore) -> None:
    part: Store = PrefixStore(store, "runs/a/")
    assert part.put_if_absent("model", b"1") and not part.put_if_absent("model", b"2")
    store.put_if_absent("runs/ab/model", b"")
    part.replace("pointer", b"x")
    assert (
        part.list() == ["model", "pointer"]
        and part.list("m") == ["model"]
        and part.read("model") == b"1"
    )
    assert store.read("runs/a/pointer") == b"x"
    lease = part.acquire("live", "me", 30)
    assert lease and store.acquire("live", "you", 30) is None and part.renew(lease, 30).epoch == 1
    part.delete("model")
    part.release(lease)
    assert part.list() == ["pointer"] and store.acquire("live", "you", 30)


def test_what_is_below_a_lease_is_written_under_it_alone(store: FolderStore) -> None:
    first = store.acquire("live", "first", 60)
    assert first is not None
    part = PrefixStore(PrefixStore(store, lease=first), "runs/a/")
    part.replace("pointer", b"1")
    assert part.put_if_absent("segment", b"1")
    store.delete("live.lease")
    second = store.acquire("live", "second", 60)
    for write in (lambda: part.replace("pointer", b"2"), lambda: part.put_if_absent("other", b"2")):
        with pytest.raises(LeaseLost, match="held by second"):
            write()
    assert part.read("pointer") == b"1" and part.list() == ["pointer", "segment"]
    PrefixStore(store, "runs/a/", second).replace("pointer", b"3")
    assert part.read("pointer") == b"3"

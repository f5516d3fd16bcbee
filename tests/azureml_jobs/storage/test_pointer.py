"""A pointer leads to the file that was pointed at, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.base import StoreMissing
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.pointer import digest, follow, point
from conf.errors import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "state")


def test_a_pointer_leads_to_its_file(store: FolderStore) -> None:
    store.put_if_absent("model-1", b"weights")
    point(store, "current", "model-1", digest(b"weights"))
    assert follow(store, "current") == ("model-1", b"weights")
    store.put_if_absent("model-2", b"better")
    point(store, "current", "model-2", digest(b"better"))
    assert follow(store, "current") == ("model-2", b"better")


def test_a_pointer_finds_a_damaged_or_missing_file(store: FolderStore) -> None:
    with pytest.raises(StoreMissing):
        follow(store, "current")
    point(store, "current", "model-1", digest(b"weights"))
    with pytest.raises(StoreMissing, match="model-1"):
        follow(store, "current")
    store.put_if_absent("model-1", b"weightz")
    with pytest.raises(CheckpointError, match=r"MDW-517.*model-1.*digest"):
        follow(store, "current")


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b'{"target": "a"}', b"\xff\xfe"])
def test_a_pointer_of_garbage_says_so(store: FolderStore, garbage: bytes) -> None:
    store.replace("current", garbage)
    with pytest.raises(CheckpointError, match=r"MDW-517.*current"):
        follow(store, "current")

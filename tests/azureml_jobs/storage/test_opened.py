"""A store by its address."""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.identity import DefaultAzureCredential

from azureml_jobs.identity import azure_sign_in
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.opened import open_store


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "own"))
    assert isinstance(store, FolderStore)
    store.replace("a", b"1")
    assert (tmp_path / "own/a").read_bytes() == b"1"


def test_an_address_is_a_blob_container_and_nothing_is_asked_of_it_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(azure_sign_in, "sign_in", DefaultAzureCredential)
    store = open_store("https://north.blob.core.windows.net/states/a/b")
    assert repr(store) == "BlobStore('https://north.blob.core.windows.net/states/a/b')"

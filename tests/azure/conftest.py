"""One loopback cloud for all tests of this folder; each test gets workspaces of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from azureml_jobs.backends import azure
from azureml_jobs.backends.azure import AzureBackend
from azureml_jobs.identity import azure_sign_in
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.rehearse import Rehearsal
from azureml_jobs.storage.rights import PLACES
from tests.azure.federation import SILOS, Federation, cheap_code

os.environ["AZUREML_RUN_POLLING_INTERVAL_MIN"] = "1"  # read when azure.ai.ml is imported

ACCOUNTS = ("hub", "north", "south", "west")
VAULTS = ("kv-hub", "kv-north", "kv-south", "kv-west")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCloud]:
    if shutil.which("node") is None:
        pytest.skip("Azurite needs Node, and there is none on this machine")
    with LoopbackCloud(tmp_path_factory.mktemp("cloud"), ACCOUNTS, VAULTS) as cloud:
        yield cloud


@pytest.fixture
def cloud(
    loopback: LoopbackCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[LoopbackCloud]:
    """The cloud, this process led to it; nothing may go elsewhere or ask what the stand-in does not know."""
    for name in list(os.environ):
        if name.startswith(("AZURE", "MLFLOW_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in loopback.environment().items():
        monkeypatch.setenv(name, value)
    loopback.request_log.forget()
    azure_sign_in.forget()
    yield loopback
    azure_sign_in.forget()
    assert loopback.request_log.unrouted == []
    assert loopback.request_log.outbound == []


@pytest.fixture
def federation(
    cloud: LoopbackCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Federation]:
    """A federation of two silos; 'all' holds every right, the engineer and the owners their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(azure, "LIST_SECONDS", 0.0)
    cloud.executor.stop()
    cloud.executor.jobs.clear()
    for key in [key for key in cloud.resources._by_key if "/jobs/" in key]:
        del cloud.resources._by_key[key]
    cloud.access.grants.clear()
    rehearsal = Rehearsal(cloud, tmp_path, names=SILOS)
    rehearsal.build()
    for name in ("hub", *SILOS):
        rehearsal._grants("all", workspace=name, vault=f"kv-{name}", storage=name, owner=True)
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.txt").write_text("a")
    for name in ("federation", *(f"federation-{place}" for place in PLACES)):
        container = cloud.accounts.container("hub", name)
        for blob in container.list_blob_names():
            container.delete_blob(blob)
    yield Federation(rehearsal, tmp_path, code)
    cloud.executor.stop()
    monkeypatch.undo()
    cloud.access.grants.clear()
    shutil.rmtree(tmp_path / ".meadow", ignore_errors=True)


@pytest.fixture
def cheap(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """The federation with keys, where `launch` sends code that does next to nothing."""
    federation.cloud.vaults._secrets.clear()
    federation.rehearsal.make_keys()
    tree = cheap_code(federation.folder / "tree")
    monkeypatch.setattr(azure, "AzureBackend", partial(AzureBackend, root=tree))
    return federation

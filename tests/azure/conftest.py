"""One loopback cloud for all tests of this folder; each test gets workspaces of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from azureml_jobs.rehearsal.cloud import LoopbackCloud

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
    yield loopback
    assert loopback.request_log.unrouted == []
    assert loopback.request_log.outbound == []

"""A silo's state in a blob container of its own: where it is, that it comes back, and who may write it."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.storage.base import LeaseLost
from azureml_jobs.storage.blob_store import BlobStore
from client.node import state_store
from client.node.state_store import AnotherProcess, SiloStateStore
from conf.errors import CheckpointError


@pytest.fixture
def container(cloud: LoopbackCloud) -> BlobStore:
    return BlobStore(cloud.accounts.container("north", "state"), f"test-{uuid.uuid4().hex}")


def archive(*rounds: int) -> RecordDict:
    return RecordDict(
        {
            f"1|run|{round}|c": ArrayRecord({"w": Array(np.full(10, round, np.float32))})
            for round in rounds
        }
    )


def test_it_outlives_the_job_and_is_one_process_s_to_write(
    container: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(state_store, "RENEW_SECONDS", 0.2)
    first = SiloStateStore(lambda: container, "north")
    first.keep("run", 1, archive(1))
    first.keep("run", 4, archive(1, 4))
    second = SiloStateStore(lambda: container, "north")
    with pytest.raises(AnotherProcess, match="MDW-343"):
        second.restore("run")
    first.close()
    third = SiloStateStore(lambda: container, "north")
    found = third.restore("run")
    assert list(found) == list(archive(1, 4))
    third.keep("run", 5, archive(4, 5))
    # The one before the last two stays, for a server that has to go back by a checkpoint.
    assert container.list("north/runs/") == [
        "north/runs/run/round-000001.state",
        "north/runs/run/round-000004.state",
        "north/runs/run/round-000005.state",
    ]
    third.close()


def test_a_frozen_process_that_was_replaced_writes_nothing(
    container: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "LEASE_SECONDS", 0.3)
    first = SiloStateStore(lambda: container, "north")
    first.keep("run", 1, archive(1))
    first._closed.set()
    second = SiloStateStore(lambda: container, "north")
    second.keep("run", 2, archive(1, 2))
    with pytest.raises(LeaseLost, match="MDW-516"):
        first.keep("run", 3, archive(2, 3))
    assert "north/runs/run/round-000003.state" not in container.list("north/")
    second.close()


def test_a_blob_that_was_changed_is_refused_by_its_name(container: BlobStore) -> None:
    first = SiloStateStore(lambda: container, "north")
    first.keep("run", 1, archive(1))
    first.close()
    name = "north/runs/run/round-000001.state"
    container.replace(name, container.read(name)[:-1] + b"!")
    again = SiloStateStore(lambda: container, "north")
    with pytest.raises(CheckpointError, match=rf"MDW-519.*{name}"):
        again.restore("run")
    again.close()

"""What will end is said in a running federation's logs, the server's and the silo's, once and not at each heartbeat."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.rendezvous import FolderRendezvous
from azureml_jobs.storage.folder_store import FolderStore
from server.orchestrator import caretaker, fleet
from server.orchestrator.caretaker import LEASE, Caretaker
from server.orchestrator.service import Orchestrator
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue
from tests.faults.federation import Federation, ThreadNode, until

DAY = 86400.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A caretaker that looks many times a second, and answers to silos that come as often."""
    monkeypatch.setattr(caretaker, "CARE_SECONDS", 0.02)
    monkeypatch.setattr(caretaker, "WARN_SECONDS", 0.0)
    monkeypatch.setattr(fleet, "LONG_POLL_SECONDS", 0.1)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def said(caplog: pytest.LogCaptureFixture, name: str, text: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == name and text in r.getMessage()]


@pytest.mark.usefixtures("quick")
def test_the_server_and_that_silo_say_once_that_a_key_and_the_ca_will_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    federation = Federation(tmp_path, silos=2, made=datetime.now(UTC) - timedelta(days=3650 - 20))
    store, credentials = FolderStore(tmp_path / "store"), federation.credentials()
    authority = AdmissionAuthority(federation.secrets, "federation")
    long_ago = AdmittedKeys(store, lambda: time.time() - 360 * DAY, authority)
    long_ago.admit("silo-1", federation.public["silo-1"].decode())
    keys = AdmittedKeys(store, time.time, authority)
    keys.admit("silo-2", federation.public["silo-2"].decode())
    orchestrator = Orchestrator("127.0.0.1:0", credentials, {})
    lease = store.acquire(LEASE, "this", 60)
    assert lease is not None
    place = FolderRendezvous(tmp_path / "place")
    orchestrator.start()
    with Caretaker(
        orchestrator, credentials, "127.0.0.1", store, lease, place, keys, RunQueue(store)
    ) as care:
        nodes = [
            ThreadNode(federation.connection(orchestrator.address, silo.name), silo, None)
            for silo in federation.silos
        ]
        try:
            until(lambda: said(caplog, "client.node.node", "This silo's key may connect until"))
            polls = care._next_look
            until(lambda: care._next_look > polls + 1.0)  # many looks and many answers later
        finally:
            for node in nodes:
                node.end()
            orchestrator.stop(over=False)
    assert (
        len(said(caplog, "server.orchestrator.caretaker", "of silo-1 expires in 7 days or less"))
        == 1
    )
    assert (
        len(
            said(
                caplog,
                "server.orchestrator.caretaker",
                "The federation's CA expires in 30 days or less",
            )
        )
        == 1
    )
    assert len(said(caplog, "client.node.node", "keys silo silo-1 --new")) == 1
    assert said(caplog, "server.orchestrator.caretaker", "of silo-2 expires") == []
    assert said(caplog, "client.node.node", "silo-2 --new") == []

"""Admissions that end within seconds, in a running federation: a key in use is renewed, no other is."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from azureml_jobs.identity.renewal import Renewal, terms_of_renewal
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.rendezvous import FolderRendezvous
from azureml_jobs.storage.folder_store import FolderStore
from server.orchestrator import caretaker, fleet
from server.orchestrator.caretaker import LEASE, Caretaker
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue
from tests.faults.federation import Federation, ask, model, until

DAY = 86400.0
SECONDS = 3.0
"""For which an admission counts: longer than a loaded machine needs for a round."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(caretaker, "CARE_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "LONG_POLL_SECONDS", 0.2)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


class Running:
    """Silo-1 may be renewed for long, silo-2 may not be, silo-3 may be and is not there."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.federation = Federation(folder, silos=3)
        store = FolderStore(folder / "store")
        authority = AdmissionAuthority(self.federation.secrets, "federation")
        ca = authority.certificate()
        self.owner = AdmittedKeys(store, time.time, authority)
        self.list = AdmittedKeys(store, time.time, ca=ca)
        self.began = time.time()
        terms = terms_of_renewal(SECONDS / DAY, self.began + 300)
        for name, limits in (("silo-1", terms), ("silo-2", {}), ("silo-3", terms)):
            line = self.federation.public[name].decode()
            self.owner.admit(name, line, SECONDS / DAY, limits)
        credentials = self.federation.credentials()
        self.server = Orchestrator("127.0.0.1:0", credentials, {})
        lease = store.acquire(LEASE, "this", 60)
        assert lease is not None
        place = FolderRendezvous(folder / "place")
        self.server.start()
        stack.callback(self.server.stop, over=False)
        stack.enter_context(
            Caretaker(
                self.server,
                credentials,
                "127.0.0.1",
                store,
                lease,
                place,
                self.list,
                RunQueue(store),
            )
        )
        for silo in self.federation.silos[:2]:
            stack.enter_context(self.federation.thread_node(self.server.address, silo))

    def passed(self, seconds: float) -> bool:
        return time.time() > self.began + seconds


def test_in_a_running_federation_a_key_in_use_outlives_its_admission_and_no_other_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        running = Running(tmp_path, stack)
        until(lambda: running.server.connected() == ["silo-1", "silo-2"])
        grid = PackedGrid(running.server.open_run("run", ["silo-1", "silo-2"]))
        answered: list[int] = []
        # Rounds go on over two ends of silo-1's admission, and silo-2's is in the middle of one.
        while not running.passed(2 * SECONDS + 1):
            replies = grid.send_and_receive(ask(grid, len(answered) + 1, model(10)), timeout=20)
            answered.append(sum(reply.has_content() for reply in replies))
        assert running.server.connected() == ["silo-1"]
        assert answered[0] == 2 and answered[-1] == 1 and min(answered) == 1
        # The owner revokes it: a renewal that is still good brings nothing back.
        running.owner.revoke("silo-1")
        until(lambda: running.server.connected() == [])
        seen = caplog.text.count("was renewed until")
        until(lambda: running.passed(3 * SECONDS + 1))
        assert caplog.text.count("was renewed until") == seen
    assert "admission of silo-1 was renewed until" in caplog.text
    assert "admission of silo-2 was renewed" not in caplog.text
    assert "admission of silo-3 was renewed" not in caplog.text


def test_a_renewal_that_a_stranger_leaves_in_the_store_lengthens_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        running = Running(tmp_path, stack)
        (silo_3,) = [key for key in running.list.current_keys() if key.silo == "silo-3"]
        ends = time.time() + 300
        running.owner.note_renewal(
            silo_3, Renewal("federation", silo_3.fingerprint, time.time(), ends)
        )
        fresh = AdmittedKeys(
            FolderStore(tmp_path / "store"), time.time, ca=running.federation.authority
        )
        until(lambda: running.passed(SECONDS + 0.5))
        assert "silo-3" not in fresh.current().values()
        assert "silo-3" not in running.list.current().values()
    assert "MDW-723" in caplog.text

"""Admissions that end in a running federation: a key in use is renewed, no other is.

The list's clock is the test's; connections, calls and rounds are real.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.identity.renewal import Renewal, terms_of_renewal
from azureml_jobs.identity.signed_admission import AdmissionAuthority, check_admission
from azureml_jobs.rendezvous import FolderRendezvous, admission_name
from azureml_jobs.storage.folder_store import FolderStore
from client.node.own_admission import SiloAdmission
from conf.errors import CheckpointError
from server.orchestrator import caretaker, fleet
from server.orchestrator.caretaker import LEASE, Caretaker
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from server.store.admitted_keys import AdmittedKeys
from server.store.renewals import Renewals
from server.store.run_queue import RunQueue
from tests.faults.federation import Federation, ask, lines, model, until
from tests.security.caller import Caller, certified

DAY = 86400.0
DAYS = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(caretaker, "CARE_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "LONG_POLL_SECONDS", 0.2)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


class Running:
    """Silo-1 may be renewed, silo-2 may not be, silo-3 may be and is not there; all for 30 days."""

    def __init__(self, folder: Path, stack: ExitStack, *, with_ca: bool = False) -> None:
        """`with_ca`: the orchestrator may have the CA sign."""
        self.federation = Federation(folder, silos=3)
        self.began = self.now = time.time()
        self.store = FolderStore(folder / "store")
        authority = AdmissionAuthority(self.federation.secrets, "federation")
        self.owner = AdmittedKeys(self.store, self.clock, authority)
        self.list = self.fresh_list()
        terms = terms_of_renewal(DAYS, self.began + 300 * DAY)
        for name, limits in (("silo-1", terms), ("silo-2", {}), ("silo-3", terms)):
            line = self.federation.public[name].decode()
            self.owner.admit(name, line, DAYS, limits)
        credentials = self.federation.credentials()
        self.server = Orchestrator("127.0.0.1:0", credentials, {})
        lease = self.store.acquire(LEASE, "this", 600)
        assert lease is not None
        self.place = FolderRendezvous(folder / "place")
        self.server.start()
        stack.callback(self.server.stop, over=False)
        care = Caretaker(
            self.server,
            credentials,
            "127.0.0.1",
            self.store,
            lease,
            self.place,
            self.list,
            RunQueue(self.store),
            authority=authority if with_ca else None,
        )
        self.care = stack.enter_context(care)
        for silo in self.federation.silos[:2]:
            stack.enter_context(self.federation.thread_node(self.server.address, silo))
        until(lambda: self.server.connected() == ["silo-1", "silo-2"])

    def clock(self) -> float:
        return self.now

    def fresh_list(self) -> AdmittedKeys:
        return AdmittedKeys(self.store, self.clock, ca=self.federation.authority)

    def day(self, number: float) -> None:
        self.now = self.began + number * DAY


def said_more(caplog: pytest.LogCaptureFixture, renewals: int) -> bool:
    return caplog.text.count("was renewed until") > renewals


def test_where_nothing_can_be_renewed_a_revoked_key_is_shut_out_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CheckpointError("MDW-513", "The store is full.", "Make room.")

    with ExitStack() as stack:
        running = Running(tmp_path, stack)
        monkeypatch.setattr(running.care._renewal, "look", fails)
        running.owner.revoke("silo-2")
        until(lambda: running.server.connected() == ["silo-1"])


def test_a_key_in_use_outlives_its_admission_in_the_middle_of_a_round_and_no_other_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        running = Running(tmp_path, stack)
        grid = PackedGrid(running.server.open_run("run", ["silo-1", "silo-2"]))
        running.day(25)
        until(lambda: "admission of silo-1 was renewed until" in caplog.text)
        answers: list[bool] = []

        trained = tmp_path / "trained"

        def one_round(round: int, seconds: float) -> None:
            more = {"sleep": seconds, "trained-file": str(trained)}
            asked = ask(grid, round, model(10), **more)
            answers[:] = [r.has_content() for r in grid.send_and_receive(asked, timeout=60)]

        # Both are training when their admissions end, and only silo-1's was renewed.
        training = threading.Thread(target=one_round, args=(1, 2.0))
        training.start()
        until(lambda: len(lines(trained)) == 2)
        running.day(31)
        until(lambda: running.server.connected() == ["silo-1"])
        training.join(60)
        assert sorted(answers) == [False, True]
        for day in (54, 80):
            renewals = caplog.text.count("was renewed until")
            running.day(day)
            until(partial(said_more, caplog, renewals))
        one_round(2, 0.0)
        assert answers == [True]
        # The owner revokes it: a renewal that is still good brings nothing back.
        running.owner.revoke("silo-1")
        until(lambda: running.server.connected() == [])
        renewals = caplog.text.count("was renewed until")
        running.day(105)
        assert running.list.due() == [] and running.list.current() == {}
        assert caplog.text.count("was renewed until") == renewals
    assert "admission of silo-2 was renewed" not in caplog.text
    assert "admission of silo-3 was renewed" not in caplog.text


def test_a_renewal_that_a_stranger_leaves_in_the_store_lengthens_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        running = Running(tmp_path, stack)
        (key,) = [key for key in running.list.current_keys() if key.silo == "silo-3"]
        forged = Renewal("federation", key.fingerprint, running.now, running.now + 300 * DAY)
        for name in running.store.list("keys/admitted/"):
            digest = name.removeprefix("keys/admitted/").removesuffix(".json")
            Renewals(running.store).put(digest, forged)
        running.day(31)
        assert "silo-3" not in running.fresh_list().current().values()
        until(lambda: "silo-2" not in running.server.connected())
        assert "silo-3" not in running.list.current().values()
    assert "MDW-723" in caplog.text


def test_a_renewed_silo_is_sent_a_new_certificate_and_connects_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        running = Running(tmp_path, stack, with_ca=True)
        name = admission_name(running.federation.public["silo-1"].decode())
        first = running.place.admission(name)
        running.day(25)
        until(lambda: running.place.admission(name) != first)
        new = running.place.admission(name)
        assert first is not None and new is not None
        said = check_admission(new, running.federation.authority, "it")
        before = check_admission(first, running.federation.authority, "it")
        assert said.expires == pytest.approx(running.began + 55 * DAY)
        assert (said.line, said.silo, said.limits) == (before.line, before.silo, before.limits)
        serials = {x509.load_pem_x509_certificate(one).serial_number for one in (first, new)}
        assert len(serials) == 2
        # A process of that silo that starts now finds it, and the door lets it in.
        secret = running.federation.secrets.get(node_secret("federation", "silo-1"))
        key = load_node_key(secret, "it")
        finder = SiloAdmission("silo-1", key, running.federation.authority, running.place)
        assert finder.find() == new
        private = certified(running.federation, key)[0]
        caller = Caller(running.federation, running.server.address, key, (private, new))
        answer = caller.call(
            "SendNodeHeartbeat", SendNodeHeartbeatRequest(node=caller.node, heartbeat_interval=10)
        )
        assert answer.success
    assert caplog.text.count("signed a new certificate of silo-1") == 1
    assert "new certificate of silo-2" not in caplog.text
    assert "new certificate of silo-3" not in caplog.text

"""The orchestrator job, in this process: when it ends, what it leaves, and what it follows while it works."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.node_key import fresh_node_key, load_node_key
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.rendezvous import OPEN, OVER, FolderRendezvous, Record
from azureml_jobs.storage.base import LeaseLost
from azureml_jobs.storage.prefix import PrefixStore
from client.node.connection import Connection
from client.node.own_admission import SiloAdmission
from conf.compose import compose
from conf.errors import CheckpointError, IdentityError, SiloError
from conf.federation_folder import FederationFolder
from conf.schema import Conf
from server import serve as orchestrator_job
from server.orchestrator import caretaker
from server.orchestrator.backends import OrchestratorBackends, store_in
from server.orchestrator.caretaker import (
    END_FILE,
    LEASE,
    STATUS_FILE,
    ask_to_end,
    read_status,
)
from server.run.audit import audit
from server.run.checkpoint import Checkpoints, RunState
from server.run.result import RoundRecord, RunResult
from server.scoring.evaluation import first_weights
from server.serve import _Display, serve
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import RunQueue


class Place:
    """A federation's folder with a CA and nothing else, seen from outside the orchestrator."""

    def __init__(self, path: Path) -> None:
        path.chmod(0o700)
        self.folder = FederationFolder(path / "federation")
        self.output = path / "outputs"
        self.secrets = FolderSecrets(self.folder.keys)
        make_ca(self.secrets, "test", datetime.now(UTC))
        self.store = store_in(self.folder)
        self.queue = RunQueue(self.store)
        authority = AdmissionAuthority(self.secrets, "federation")
        self.keys = AdmittedKeys(self.store, time.time, authority)
        self.rendezvous = FolderRendezvous(self.folder.rendezvous)

    def conf(self, *overrides: str) -> Conf:
        small = ["task=digits", "data.examples=60", "federation.size=2", "run.rounds=1"]
        own = [f"federation.folder={self.folder.path}", f"run.output={self.output}"]
        return compose([*small, *own, *overrides])

    def records(self) -> list[Record]:
        return [signed.record for signed in self.rendezvous.seen()]

    def is_open(self) -> bool:
        return [record.state for record in self.records()] == [OPEN]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(caretaker, "CARE_SECONDS", 0.1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield Place(tmp_path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def meanwhile(action: Callable[[], None]) -> Callable[[], None]:
    """Do something in a thread beside the orchestrator; the returned function raises what went wrong there."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> None:
        thread.join(30)
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    return join


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_idle_orchestrator_ends_well_and_says_that_the_federation_is_over(place: Place) -> None:
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    assert [record.state for record in place.records()] == [OVER]
    assert place.store.acquire(LEASE, "another", 10) is not None, "the lease was given up"


def test_sigterm_ends_it_with_143_and_silos_go_on_looking(place: Place) -> None:
    def ask() -> None:
        until(place.is_open)
        end()

    join = meanwhile(ask)
    assert serve(place.conf()) == 143
    join()
    assert [record.state for record in place.records()] == [OPEN]
    assert place.store.acquire(LEASE, "another", 10) is not None


def test_its_owner_ends_it_through_the_store_and_silos_hear_that_it_is_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caretaker, "CARE_SECONDS", 0.1)

    def ask() -> None:
        until(place.is_open)
        # A request that an earlier orchestrator did not live to read is not for this one.
        place.store.replace(END_FILE, b'{"epoch": 0}')
        time.sleep(0.3)
        assert [record.state for record in place.records()] == [OPEN]
        until(lambda: ask_to_end(place.store))

    join = meanwhile(ask)
    assert serve(place.conf()) == 0
    join()
    assert [record.state for record in place.records()] == [OVER]
    assert place.store.acquire(LEASE, "another", 10) is not None


def test_one_of_a_schedule_ends_well_where_another_is_live_or_the_federation_was_ended(
    place: Place,
) -> None:
    standby = place.conf("federation.orchestrator.standby=true")
    lease = place.store.acquire(LEASE, "the live one", 60)
    assert lease is not None
    assert serve(standby) == 0
    assert place.records() == [], "it never said that it is there"
    place.store.release(lease)
    place.store.replace(STATUS_FILE, b'{"epoch": 7}')
    assert ask_to_end(place.store)
    assert serve(standby) == 0 and place.records() == []
    place.store.replace(STATUS_FILE, b'{"epoch": 8}')
    again = ["federation.orchestrator.standby=true", "federation.orchestrator.idle_timeout=0"]
    assert serve(place.conf(*again)) == 0
    assert [record.state for record in place.records()] == [OVER]


def test_a_second_orchestrator_on_the_same_store_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrator_job, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(orchestrator_job, "CARE_SECONDS", 0.1)
    lease = place.store.acquire(LEASE, "the first", 60)
    assert lease is not None
    over = threading.Event()

    def live() -> None:
        held = lease
        while not over.wait(0.05):
            held = place.store.renew(held, 60)

    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(CheckpointError, match=r"MDW-518.*live \(the first\)"):
            serve(place.conf("federation.orchestrator.idle_timeout=0"))
    finally:
        over.set()
        living.join()
    assert place.rendezvous.seen() == [], "it never said that it is there"


def test_an_orchestrator_that_lost_its_lease_stops_itself(place: Place) -> None:
    def take_over() -> None:
        until(place.is_open)
        place.store.delete(f"{LEASE}.lease")
        assert place.store.acquire(LEASE, "another", 60) is not None

    join = meanwhile(take_over)
    with pytest.raises(LeaseLost, match="MDW-516"):
        serve(place.conf())
    join()


def test_without_a_ca_nothing_is_started(place: Place) -> None:
    place.secrets.delete(CA_CERTIFICATE)
    with pytest.raises(IdentityError, match="MDW-700"):
        serve(place.conf())
    assert place.store.acquire(LEASE, "another", 10) is not None


def test_a_run_whose_silos_do_not_come_fails_and_names_them(place: Place) -> None:
    for silo in ("silo-1", "silo-2"):
        place.keys.admit(silo, fresh_node_key()[1])
    place.queue.submit("a", place.conf("run.start_timeout=0.2"))
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    outcome = place.queue.outcome("a")
    assert (
        outcome is not None and outcome.status == "failed" and outcome.exit == SiloError.exit_status
    )
    assert "MDW-330" in outcome.reason and "silo-1, silo-2" in outcome.reason


def test_what_an_ended_run_left_is_deleted_when_its_lifetime_is_over(place: Place) -> None:
    for silo in ("silo-1", "silo-2"):
        place.keys.admit(silo, fresh_node_key()[1])
    place.queue.submit("a", place.conf("run.start_timeout=0.2"))
    ends = ["federation.orchestrator.idle_timeout=0"]
    assert serve(place.conf(*ends)) == 0
    assert serve(place.conf(*ends, "federation.orchestrator.lifetimes.errors=0")) == 0
    outcome = place.queue.outcome("a")
    assert outcome is not None and (outcome.status, outcome.reason) == ("failed", "")
    result = RunResult.read(place.output / "a")
    assert result.error == {"code": "MDW-330", "message": "forgotten"}
    assert '"event":"forgotten"' in (place.output / "a/ledger.jsonl").read_text()


def test_a_run_that_could_not_start_leaves_a_result_that_says_why_and_can_be_gone_on_with(
    place: Place,
) -> None:
    for silo in ("silo-1", "silo-2"):
        place.keys.admit(silo, fresh_node_key()[1])
    place.queue.submit("a", place.conf("run.start_timeout=0.2"))
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    folder = place.output / "a"
    outcome = place.queue.outcome("a")
    assert outcome is not None and outcome.folder == str(folder)
    result = RunResult.read(folder)
    assert (result.status, result.error and result.error["code"]) == ("failed", "MDW-330")
    assert result.error is not None and "missing: silo-1, silo-2" in result.error["message"]
    assert result.rounds == 0 and result.ledger and audit(folder).faults == []
    assert (folder / "report.html").exists()
    place.queue.submit("a", compose([f"run.resume={folder}", f"run.output={place.output}"]))
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    events = [
        json.loads(line)["event"] for line in (folder / "ledger.jsonl").read_text().splitlines()
    ]
    runs = [event for event in events if event.startswith("run ")]
    ends = ["run finished", "run closed"]
    assert runs == ["run started", *ends, "run resumed", *ends]


@pytest.mark.parametrize(("closed", "needed"), [(0, 3), (1, 2)])
def test_a_restarted_orchestrator_needs_the_silos_that_a_round_needs_and_not_all(
    place: Place, closed: int, needed: int
) -> None:
    for silo in ("silo-1", "silo-2", "silo-3"):
        place.keys.admit(silo, fresh_node_key()[1])
    conf = place.conf("run.start_timeout=0.2", "federation.size=3")
    checkpoints = Checkpoints(PrefixStore(place.store, "runs/a/"))
    checkpoints.save(RunState(closed, first_weights(conf)))
    place.queue.submit("a", conf)
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    outcome = place.queue.outcome("a")
    assert outcome is not None and f"0 of the {needed} silos needed" in outcome.reason


def test_a_run_that_names_a_silo_without_a_key_leaves_a_result_too(place: Place) -> None:
    place.queue.submit("a", place.conf("run.start_timeout=0.2"))
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    result = RunResult.read(place.output / "a")
    assert (
        result.status == "failed"
        and result.error is not None
        and "silo-1, silo-2" in result.error["message"]
    )


def test_files_of_a_failed_run_are_kept_where_results_are(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = replace(OrchestratorBackends.from_conf(place.conf()), keeps_results=True)
    monkeypatch.setattr(OrchestratorBackends, "from_conf", lambda conf: keeping)
    place.queue.submit("a", place.conf("run.start_timeout=0.2"))
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    assert "results/a/result.json" in place.store.list("results/")


def test_one_run_that_can_not_be_read_does_not_keep_the_next_from_its_turn(place: Place) -> None:
    bad = place.conf()
    bad.trainer.lr = -1.0
    place.queue.submit("bad", bad)
    place.queue.submit("next", place.conf("run.start_timeout=0.2"))
    assert serve(place.conf("federation.orchestrator.idle_timeout=0")) == 0
    first, second = place.queue.outcome("bad"), place.queue.outcome("next")
    assert first is not None and "MDW-104" in first.reason and first.exit == 2
    assert second is not None and "MDW-330" in second.reason


def test_a_cancelled_run_ends_and_the_orchestrator_stays(place: Place) -> None:
    def cancel() -> None:
        until(lambda: read_status(place.store).get("run") == "a")
        place.queue.cancel("a", live=True)
        until(lambda: place.queue.outcome("a"))
        place.queue.submit("b", place.conf("run.start_timeout=0.2"))
        until(lambda: place.queue.outcome("b"))
        end()

    place.queue.submit("a", place.conf())
    join = meanwhile(cancel)
    assert serve(place.conf()) == 143
    join()
    outcome = place.queue.outcome("a")
    assert outcome is not None and (outcome.status, outcome.exit) == ("cancelled", 130)


def test_a_run_stopped_by_sigterm_is_taken_up_by_the_next_orchestrator(place: Place) -> None:
    def stop() -> None:
        until(lambda: read_status(place.store).get("run") == "a")
        end()

    place.queue.submit("a", place.conf("run.start_timeout=5"))
    join = meanwhile(stop)
    assert serve(place.conf()) == 143
    join()
    request = place.queue.next()
    assert request is not None and request.run_id == "a"


def test_keys_are_admitted_and_revoked_while_it_runs(place: Place) -> None:
    secret, line = fresh_node_key()

    def connect() -> None:
        until(place.is_open)
        (record,) = place.records()
        key, authority = load_node_key(secret, "test"), place.secrets.get(CA_CERTIFICATE)
        admission = SiloAdmission("late", key, authority, place.rendezvous)
        connection = Connection(lambda: record.address, authority, key, admission=admission)
        try:
            place.keys.admit("late", line)
            until(lambda: opened(connection))
            until(lambda: read_status(place.store).get("connected") == ["late"])
            place.keys.revoke("late")
            with pytest.raises(IdentityError, match="MDW-744"):
                until(
                    connection.receive
                )  # the question that was open is answered still, the next one is not
        finally:
            connection.close()
            end()

    join = meanwhile(connect)
    assert serve(place.conf()) == 143
    join()


def opened(connection: Connection) -> bool:
    """Whether the silo's key is let in by now."""
    try:
        connection.open(connection.clock() + 10)
    except IdentityError as error:
        assert error.code == "MDW-743"
        return False
    return True


def test_the_status_says_what_each_silo_said_last_that_it_runs() -> None:
    display = _Display(Console(file=io.StringIO()))
    keeper = SimpleNamespace(software={"a": {"torch": "2.8.0"}, "b": {"torch": "2.8.0"}})
    display.care = keeper
    before = keeper.software
    display.round_closed(RoundRecord(1, ["a"], software={"a": {"torch": "2.9.0"}}))
    assert keeper.software == {"a": {"torch": "2.9.0"}, "b": {"torch": "2.8.0"}}
    assert keeper.software is not before, "a thread may be writing the one before"

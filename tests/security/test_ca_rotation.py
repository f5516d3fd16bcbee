"""The CA turns over in a running federation, and a lost or stolen one has its path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.identity.authority import CA_CERTIFICATE, CA_KEY, server_credentials
from azureml_jobs.identity.node_key import load_node_key, node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.identity.succession import Succession, finish_ca, rotate_ca
from azureml_jobs.rendezvous import (
    FolderRendezvous,
    Record,
    RecordSigner,
    admission_name,
)
from azureml_jobs.storage.folder_store import FolderStore
from client.node.connection import Connection
from client.node.own_admission import SiloAdmission
from client.node.server_finder import ServerFinder
from client.node.trusted_cas import TrustedCas
from conf.errors import IdentityError
from server.orchestrator.service import Orchestrator
from server.store.admitted_keys import AdmittedKeys
from tests.faults.federation import Federation


class Running:
    """A federation of one silo, whose orchestrator publishes as its caretaker does."""

    def __init__(self, folder: Path) -> None:
        self.federation = Federation(folder, silos=1)
        self.secrets: FolderSecrets = self.federation.secrets
        self.place = FolderRendezvous(folder / "place")
        self.pinned = folder / "ca.pem"
        self.pinned.write_bytes(self.secrets.get(CA_CERTIFICATE))
        self.keys = AdmittedKeys(
            FolderStore(folder / "store"), time.time, AdmissionAuthority(self.secrets, "test")
        )
        line = self.federation.public["silo-1"].decode()
        self.keys.trust(self.secrets.get(CA_CERTIFICATE))
        self.keys.admit("silo-1", line)
        self.credentials = self._certified()
        self.server = Orchestrator(
            "127.0.0.1:0", self.credentials, self.federation.public, federation="test"
        )
        self.server.start()
        self.beat = 0
        self.publish()

    def _certified(self) -> Any:
        return server_credentials(self.secrets, ["127.0.0.1"], datetime.now(UTC))

    def publish(self) -> None:
        self.beat += 1
        signer = RecordSigner(HeadSigner.of(self.credentials), "test")
        record = Record(self.server.address, 1, time.time(), beat=self.beat)
        self.place.publish(signer.signed(record))
        for key in self.keys.current_keys():
            self.place.publish_admission(admission_name(key.line), key.certificate)

    def rotate(self, **how: bool) -> Succession | None:
        before = self.secrets.get(CA_CERTIFICATE)
        made = rotate_ca(self.secrets, "test", datetime.now(UTC), **how)
        if not how.get("stolen"):
            self.keys.trust(before)
            self.keys.renew_all()
        self.follow(made)
        return made

    def follow(self, made: Succession | None = None) -> None:
        """Do what the caretaker does at its next look."""
        self.credentials = self._certified()
        self.server.use(self.credentials)
        self.keys.trust(self.credentials.ca)
        if made is not None:
            self.place.publish_succession(made.name, made.to_text())
        self.publish()

    @contextmanager
    def silo(self) -> Iterator[Connection]:
        """A silo that is started now, with the file that it was given."""
        key = load_node_key(self.secrets.get(node_secret("federation", "silo-1")), "silo-1")
        trusted = TrustedCas(self.pinned, self.place)
        finder = ServerFinder(self.place, trusted.look, "test")
        admission = SiloAdmission("silo-1", key, trusted.pem, self.place)
        connection = Connection(
            finder, trusted.pem, key, admission=admission, elsewhere=finder.failed
        )
        try:
            yield connection
        finally:
            connection.close()

    def connects(self, seconds: float = 20.0) -> bool:
        try:
            with self.silo() as connection:
                connection.open(time.monotonic() + seconds)
                return True
        except (TimeoutError, IdentityError):
            return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.server.stop(over=False)


def test_a_silo_with_the_older_ca_follows_its_word_and_one_that_is_connected_stays(
    running: Running,
) -> None:
    with running.silo() as connected:
        connected.open(time.monotonic() + 20)
        running.rotate()
        assert connected.receive() is None
        assert running.connects()
        # And one that lost its connection, without a new process.
        assert connected._stub is not None
        connected._connect_anew(connected._stub)
        assert connected.receive() is None
    assert running.connects()
    assert finish_ca(running.secrets)
    running.follow()
    assert running.connects()
    assert list(running.keys.current().values()) == ["silo-1"]


def test_two_rotations_later_a_silo_still_follows(running: Running) -> None:
    running.rotate()
    finish_ca(running.secrets)
    running.follow()
    running.rotate()
    finish_ca(running.secrets)
    running.follow()
    assert running.connects()


def test_without_the_older_ca_s_word_a_silo_waits_for_the_file(running: Running) -> None:
    running.secrets.delete(CA_KEY)
    running.rotate(lost=True)
    assert not running.connects(3)
    running.pinned.write_bytes(running.secrets.get(CA_CERTIFICATE))
    assert running.connects()


def test_with_the_file_replaced_a_silo_that_is_looking_follows_without_a_restart(
    running: Running,
) -> None:
    running.secrets.delete(CA_KEY)
    running.rotate(lost=True)
    with running.silo() as connection:
        with pytest.raises(TimeoutError):
            connection.open(time.monotonic() + 2)
        running.pinned.write_bytes(running.secrets.get(CA_CERTIFICATE))
        connection.open(time.monotonic() + 20)


def test_after_a_theft_nothing_that_the_stolen_ca_signed_counts(
    running: Running, tmp_path: Path
) -> None:
    thief = FolderSecrets(tmp_path / "thief")
    for name in (CA_KEY, CA_CERTIFICATE):
        thief.set(name, running.secrets.get(name))
    running.rotate(stolen=True)
    assert running.keys.current() == {}
    # The thief admits a key, and says that a CA of theirs follows.
    forged = AdmittedKeys(
        FolderStore(tmp_path / "store"), time.time, AdmissionAuthority(thief, "test")
    )
    forged.renew_all()
    assert running.keys.current() == {}
    assert not running.connects(3)
    running.pinned.write_bytes(running.secrets.get(CA_CERTIFICATE))
    theirs = rotate_ca(thief, "test", datetime.now(UTC))
    assert theirs is not None
    running.place.publish_succession(theirs.name, theirs.to_text())
    trusted = TrustedCas(running.pinned, running.place)
    assert len(trusted.look()) == 1
    # Compared and admitted again, the silo connects.
    running.keys.admit("silo-1", running.federation.public["silo-1"].decode())
    running.publish()
    assert running.connects()


def test_an_entry_that_only_the_store_s_writer_made_is_not_signed_anew(
    running: Running, tmp_path: Path
) -> None:
    """A rotation signs what the older CA had signed, and nothing that lies beside it."""
    thief = FolderSecrets(tmp_path / "other")
    (tmp_path / "other").mkdir(mode=0o700, exist_ok=True)
    from azureml_jobs.identity.authority import make_ca
    from azureml_jobs.identity.node_key import fresh_node_key

    make_ca(thief, "test", datetime.now(UTC))
    forged = AdmittedKeys(
        FolderStore(tmp_path / "store"), time.time, AdmissionAuthority(thief, "test")
    )
    forged.admit("intruder", fresh_node_key()[1])
    running.rotate()
    assert list(running.keys.current().values()) == ["silo-1"]

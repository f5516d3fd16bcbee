"""Who is connected is renewed; a CA that can't sign costs its certificate and nothing else."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.identity.authority import CA_KEY, server_credentials
from azureml_jobs.identity.node_key import fresh_node_key
from azureml_jobs.identity.renewal import DAY, terms_of_renewal
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.storage.folder_store import FolderStore
from server.orchestrator import key_renewal
from server.orchestrator.key_renewal import KeyRenewal
from server.store.admitted_keys import AdmittedKeys
from tests.azureml_jobs.identity.authorities import authority_in

START = 1_700_000_000.0


class Connected:
    """An orchestrator, as far as it is asked for: who is there."""

    def __init__(self) -> None:
        self.there: set[bytes] = set()
        self.forgotten: list[bytes] = []

    def is_connected(self, pem: bytes) -> bool:
        return pem in self.there

    def forget_end(self, pem: bytes) -> None:
        self.forgotten.append(pem)


class Vault(FolderSecrets):
    """A store of secrets that answers when it is let."""

    def __init__(self, folder: Path, answers: threading.Event) -> None:
        super().__init__(folder)
        self._answers = answers

    def get(self, name: str) -> bytes:
        assert self._answers.wait(60)
        return super().get(name)


class Office:
    """Two silos, admitted for 30 days and renewable for 100."""

    def __init__(self, folder: Path, *, with_ca: bool = True) -> None:
        self.now = START
        store = FolderStore(folder / "store")
        self.keys = folder / "keys"
        self.authority = authority_in(self.keys)
        owner = AdmittedKeys(store, lambda: self.now, self.authority)
        terms = terms_of_renewal(30, START + 100 * DAY)
        for silo in ("north", "south"):
            owner.admit(silo, fresh_node_key()[1], 30, terms)
        self.list = AdmittedKeys(store, lambda: self.now, ca=self.authority.certificate())
        self.orchestrator: Any = Connected()
        authority = self.authority if with_ca else None
        self.renewal = KeyRenewal(self.orchestrator, self.list, authority)
        began = datetime.fromtimestamp(START, UTC)
        self.signer = HeadSigner.of(server_credentials(self.authority.secrets, ["a.test"], began))

    def connect(self, *silos: str) -> None:
        known = self.list.current_keys()
        self.orchestrator.there = {key.pem for key in known if key.silo in silos}

    def look(self, day: float) -> dict[str, tuple[float, int]]:
        """Return by silo on which day its key ends, and which certificate it has by number."""
        self.now = START + day * DAY
        self.renewal.look(self.signer)
        if self.renewal._signing is not None:
            self.renewal._signing.join(30)
            self.renewal.look(self.signer)
        keys = self.list.current_keys()
        return {key.silo: ((key.expires - START) / DAY, hash(key.certificate)) for key in keys}


def test_who_is_there_is_renewed_and_gets_a_new_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    office = Office(tmp_path)
    office.connect("north")
    first = office.look(5)
    assert {silo: day for silo, (day, _) in first.items()} == {"north": 30, "south": 30}
    second = office.look(25)
    assert second["north"][0] == 55 and second["north"][1] != first["north"][1]
    assert second["south"] == first["south"]
    assert len(office.orchestrator.forgotten) == 1
    third = office.look(50)
    assert third["north"][0] == 80 and third["north"][1] != second["north"][1]
    assert "south" not in third
    assert caplog.text.count("signed a new certificate of north") == 2


def test_without_the_ca_a_key_is_renewed_by_word_alone(tmp_path: Path) -> None:
    office = Office(tmp_path, with_ca=False)
    office.connect("north")
    first = office.look(5)
    second = office.look(25)
    assert second["north"] == (55, first["north"][1])


def test_a_ca_that_can_t_sign_is_said_once_an_hour_and_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = Office(tmp_path)
    office.connect("north", "south")
    first = office.look(5)
    secrets = FolderSecrets(office.keys)
    key = secrets.get(CA_KEY)
    secrets.set(CA_KEY, b"damaged")
    second = office.look(25)
    assert second["north"] == (55, first["north"][1])
    assert second["south"] == (55, first["south"][1])
    office.look(25.1)
    assert caplog.text.count("2 renewed silo(s) have no new certificate yet") == 1
    secrets.set(CA_KEY, key)
    # The hour is over.
    monkeypatch.setattr(office.renewal, "_next_look", 0.0)
    third = office.look(25.2)
    assert {day for day, _ in third.values()} == {55}
    assert third["north"][1] != first["north"][1] and third["south"][1] != first["south"][1]
    assert key_renewal.AGAIN_SECONDS == 3600


def test_a_process_that_starts_after_the_word_has_the_ca_sign_what_was_left(tmp_path: Path) -> None:
    office = Office(tmp_path, with_ca=False)
    office.connect("north")
    first = office.look(25)
    office.renewal = KeyRenewal(office.orchestrator, office.list, office.authority)
    second = office.look(26)
    assert second["north"][0] == first["north"][0] == 55
    assert second["north"][1] != first["north"][1]


def test_a_vault_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    """Who looks after keys renews the lease too: it runs out in 20 s."""
    office = Office(tmp_path)
    office.connect("north", "south")
    office.now = START + 25 * DAY
    answers = threading.Event()
    vault = Vault(office.keys, answers)
    office.renewal.authority = replace(office.authority, secrets=vault)
    began = time.monotonic()
    office.renewal.look(office.signer)
    signing = office.renewal._signing
    assert signing is not None and not signing.is_over()
    for _ in range(3):
        # Renewed by word, and asked once.
        office.renewal.look(office.signer)
        assert office.renewal._signing is signing
    assert time.monotonic() - began < 10
    assert {key.expires for key in office.list.current_keys()} == {START + 55 * DAY}
    answers.set()
    assert len({number for _, number in office.look(25).values()}) == 2
    assert office.list.to_reissue() == []


def test_a_renewal_that_is_deleted_while_the_ca_signs_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office(tmp_path)
    office.connect("north", "south")
    first = office.look(5)
    office.now = START + 25 * DAY
    office.renewal.look(office.signer)
    assert office.renewal._signing is not None
    office.renewal._signing.join(30)
    next(iter((tmp_path / "store" / "renewals").iterdir())).unlink()
    second = office.look(25.1)
    assert caplog.text.count("MDW-510") == 1 and "has no new certificate" in caplog.text
    assert sum(second[silo][1] != first[silo][1] for silo in second) == 1

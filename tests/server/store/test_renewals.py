"""Renewals beside the list of admitted keys: they lengthen what the list says, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.authority import server_credentials
from azureml_jobs.identity.node_key import fresh_node_key
from azureml_jobs.identity.renewal import read_renewal, reissued, terms_of_renewal
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.identity.signed_admission import check_admission
from azureml_jobs.identity.succession import rotate_ca
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import IdentityError
from server.store.admitted_keys import AdmittedKeys
from server.store.renewals import FOLDER
from tests.azureml_jobs.identity.authorities import authority_in

DAY = 86400.0
START = 1_700_000_000.0


class Office:
    """The CA's owner, who admits; the orchestrator, which renews; one clock for both."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.store = FolderStore(folder / "store")
        self.authority = authority_in(folder / "keys")
        self.owner = AdmittedKeys(self.store, lambda: self.now, self.authority)
        self.server = self.started()
        self.line = fresh_node_key()[1]

    def started(self) -> AdmittedKeys:
        ca = self.authority.certificate()
        return AdmittedKeys(self.store, lambda: self.now, ca=ca)

    def admit(self, days: float = 30, in_all: float = 100) -> AdmittedKey:
        terms = terms_of_renewal(days, self.now + in_all * DAY)
        return self.owner.admit("north", self.line, days, terms)

    def renew(self) -> list[str]:
        """Do what the caretaker does for keys in use; return whose were renewed."""
        when = datetime.fromtimestamp(self.now, UTC)
        signer = HeadSigner.of(server_credentials(self.authority.secrets, ["127.0.0.1"], when))
        due = self.server.due()
        for key in due:
            self.server.renew_by(signer, key)
        return [key.silo for key in due]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_a_key_in_use_lasts_and_one_that_was_left_alone_ends(office: Office) -> None:
    office.admit()
    for day in range(0, 90, 5):
        office.now = START + day * DAY
        office.renew()
        assert set(office.server.current().values()) == {"north"}, day
        assert office.server.shut_out() == {}
    # Nobody renews it any more.
    office.now += 31 * DAY
    assert office.server.current() == {}
    assert list(office.server.shut_out().values()) == [True]
    assert office.renew() == []


def test_the_last_day_is_the_ca_s_owner_s(office: Office) -> None:
    office.admit()
    for day in range(101):
        office.now = START + day * DAY
        office.renew()
    assert office.server.current() == {}


def test_a_restarted_server_and_the_owner_s_list_know_of_it(office: Office) -> None:
    office.admit()
    office.now += 25 * DAY
    assert office.renew() == ["north"]
    office.now += 10 * DAY
    assert list(office.started().current().values()) == ["north"]
    (shown,) = office.owner.all()
    assert shown.expires == START + 55 * DAY


def test_a_revoked_key_is_not_renewed_and_its_renewal_brings_nothing_back(office: Office) -> None:
    office.admit()
    office.now += 25 * DAY
    office.renew()
    office.owner.revoke("north")
    office.now += 25 * DAY
    assert office.renew() == [] and office.server.current() == {}
    (key,) = office.owner.all()
    with pytest.raises(IdentityError, match="MDW-711"):
        office.owner.renew(key)
    assert list(office.server.shut_out().values()) == [False]


@pytest.mark.parametrize("text", [b"{}", b"\xff", b"x" * 30_000])
def test_a_damaged_renewal_costs_the_renewal_and_is_said_once(
    office: Office, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    office.admit()
    office.now += 25 * DAY
    office.renew()
    (name,) = office.store.list(FOLDER)
    office.store.replace(name, text)
    server = office.started()
    assert list(server.current().values()) == ["north"]
    office.now += 10 * DAY
    assert server.current() == {} and server.current() == {}
    assert caplog.text.count("MDW-723") == 1


def test_a_key_that_was_renewed_stays_so_when_the_ca_turns_over(office: Office) -> None:
    office.admit()
    office.now += 25 * DAY
    office.renew()
    when = datetime.fromtimestamp(office.now, UTC)
    before = office.authority.certificate()
    rotate_ca(office.authority.secrets, "test", when)
    office.owner.trust(before)
    (signed_anew,) = office.owner.renew_all()
    assert signed_anew.expires == pytest.approx(START + 55 * DAY + 1)
    office.server.trust(office.authority.certificate())
    office.now += 25 * DAY
    assert list(office.server.current().values()) == ["north"]
    assert office.renew() == ["north"]


def test_of_a_stolen_ca_no_renewal_counts(office: Office) -> None:
    office.admit()
    office.now += 25 * DAY
    office.renew()
    rotate_ca(
        office.authority.secrets, "test", datetime.fromtimestamp(office.now, UTC), stolen=True
    )
    office.server.trust(office.authority.certificate())
    assert office.server.current() == {} and office.renew() == []


def test_a_key_without_terms_is_never_due(office: Office) -> None:
    office.owner.admit("north", office.line, 30)
    office.now += 29 * DAY
    assert office.server.due() == []


def test_a_renewed_key_gets_a_certificate_of_the_ca_that_says_so(office: Office) -> None:
    admitted = office.admit()
    office.now += 25 * DAY
    assert office.server.to_reissue() == []
    office.renew()
    (key,) = office.server.to_reissue()
    assert key.certificate == admitted.certificate
    office.server.reissue(key, reissued(key, office.authority))
    assert office.server.to_reissue() == []
    for several in (office.server, office.started(), office.owner):
        (known,) = several.current_keys()
        said = check_admission(known.certificate, office.authority.certificate(), "it")
        assert known.certificate != admitted.certificate
        assert said.expires == known.expires == START + 55 * DAY
        assert said.limits == admitted.limits


def test_a_new_certificate_brings_no_revoked_key_back_and_none_is_signed_for_one(
    office: Office,
) -> None:
    office.admit()
    office.now += 25 * DAY
    office.renew()
    (key,) = office.server.to_reissue()
    office.server.reissue(key, reissued(key, office.authority))
    office.owner.revoke("north")
    assert office.server.current() == {} and office.server.to_reissue() == []
    assert list(office.server.shut_out().values()) == [False]


def test_a_certificate_that_is_not_to_be_believed_costs_nothing_but_itself(
    office: Office, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admitted = office.admit()
    office.now += 25 * DAY
    office.renew()
    (key,) = office.server.to_reissue()
    office.server.reissue(key, reissued(key, authority_in(tmp_path / "theirs")))
    server = office.started()
    for _ in range(2):
        (known,) = server.current_keys()
        # It is renewed all the same, by the orchestrator's word.
        assert known.expires == START + 55 * DAY
        assert known.certificate == admitted.certificate
    assert caplog.text.count("MDW-723") == 1
    # The next look has the CA sign another.
    (key,) = server.to_reissue()
    server.reissue(key, reissued(key, office.authority))
    assert server.to_reissue() == []


def test_who_lowers_a_limit_ends_what_was_signed_before(office: Office) -> None:
    """The list's last entry says what a key may; a certificate of before says something else."""
    admitted = office.admit()
    office.now += 25 * DAY
    office.renew()
    (key,) = office.server.to_reissue()
    office.server.reissue(key, reissued(key, office.authority))
    lowered = replace(admitted, limits={**admitted.limits, "examples_at_most": 10.0})
    office.owner.renew(lowered, 40)
    office.now += DAY
    (known,) = office.server.current_keys()
    assert known.limits["examples_at_most"] == 10.0
    assert known.expires == START + 65 * DAY
    (name,) = office.store.list(FOLDER)
    old = read_renewal(office.store.read(name), name).admission
    assert old and known.certificate != old

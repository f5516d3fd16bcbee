"""A renewal reaches as far as the admission allows, and counts by an orchestrator's signature alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.authority import server_credentials
from azureml_jobs.identity.node_key import fresh_node_key, load_node_key
from azureml_jobs.identity.renewal import (
    DAY,
    PURPOSE,
    Renewal,
    due,
    read_renewal,
    renewed,
    renewed_until,
    terms_of_renewal,
)
from azureml_jobs.identity.signatures import HeadSigner, sign
from azureml_jobs.identity.signed_admission import Admission
from conf.errors import IdentityError
from tests.azureml_jobs.identity.authorities import authority_in

NOW = 1_700_000_000.0


class Office:
    """A CA, an orchestrator of its, and a key that may be renewed by 30 days, for 100 in all."""

    def __init__(self, folder: Path, federation: str = "test") -> None:
        self.authority = authority_in(folder, federation)
        self.ca = self.authority.certificate()
        self.signer = self.orchestrator()
        self.secret, self.line = fresh_node_key()
        self.key = self.admitted(terms_of_renewal(30, NOW + 100 * DAY))

    def orchestrator(self) -> HeadSigner:
        when = datetime.fromtimestamp(NOW, UTC)
        return HeadSigner.of(server_credentials(self.authority.secrets, ["127.0.0.1"], when))

    def admitted(self, limits: dict[str, float]) -> AdmittedKey:
        name = self.authority.federation
        admission = Admission(name, "north", self.line, NOW, NOW + 30 * DAY, limits)
        return AdmittedKey.of(self.authority.sign(admission), "it")


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "ours")


def test_a_key_is_due_when_a_third_of_its_time_is_left_and_not_when_it_has_ended(
    office: Office,
) -> None:
    key = office.key
    assert [due(key, NOW + day * DAY) for day in (0, 19, 21, 29.9, 30, 40)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert not due(office.admitted({}), NOW + 29 * DAY)


def test_a_renewal_reaches_by_its_days_and_never_beyond_the_last_day(office: Office) -> None:
    first = renewed(office.key, office.signer, NOW + 21 * DAY)
    again = read_renewal(first.to_text().encode(), "it")
    assert again == first
    assert renewed_until(again, office.key, office.ca, "it") == NOW + 51 * DAY
    last = renewed(replace(office.key, expires=NOW + 99 * DAY), office.signer, NOW + 95 * DAY)
    assert renewed_until(last, office.key, office.ca, "it") == NOW + 100 * DAY
    assert not due(replace(office.key, expires=last.expires), NOW + 99 * DAY)


def forged(office: Office, said: Renewal, signer: HeadSigner | None = None) -> Renewal:
    """Sign what is said, with a key that is an orchestrator's."""
    signer = signer or office.signer
    said = replace(said, certificate=signer.certificate)
    return replace(said, signature=sign(signer.key, PURPOSE, said.statement()))


def test_an_orchestrator_that_lies_gets_what_the_ca_s_owner_allowed_and_no_more(
    office: Office,
) -> None:
    name = office.key.fingerprint
    for_ever = forged(office, Renewal("test", name, NOW, NOW + 9999 * DAY))
    assert renewed_until(for_ever, office.key, office.ca, "it") == NOW + 30 * DAY
    from_the_future = forged(office, Renewal("test", name, NOW + 5000 * DAY, NOW + 9999 * DAY))
    assert renewed_until(from_the_future, office.key, office.ca, "it") == NOW + 100 * DAY
    with pytest.raises(IdentityError, match=r"MDW-723.*has not allowed"):
        renewed_until(for_ever, office.admitted({}), office.ca, "it")


Forger = Callable[[Office, Renewal, Path], Renewal]


def other_ca(office: Office, said: Renewal, folder: Path) -> Renewal:
    return forged(office, said, Office(folder / "theirs").signer)


def silo_of_the_federation(office: Office, said: Renewal, folder: Path) -> Renewal:
    """A silo has a certificate of this CA too, over a key of its own."""
    key = load_node_key(office.secret, "its key")
    said = replace(said, certificate=office.key.certificate)
    return replace(said, signature=sign(key, PURPOSE, said.statement()))


FORGERS: dict[str, Forger] = {
    "changed afterwards": lambda office, said, folder: replace(said, expires=said.expires + 1),
    "of another key": lambda office, said, folder: forged(office, replace(said, key="SHA256:x")),
    "of another federation": lambda office, said, folder: forged(
        office, replace(said, federation="other")
    ),
    "signed for another purpose": lambda office, said, folder: replace(
        said, signature=office.signer.sign(said.statement())
    ),
    "by another CA's orchestrator": other_ca,
    "by a silo of the federation": silo_of_the_federation,
    "without a certificate": lambda office, said, folder: replace(said, certificate=""),
}


@pytest.mark.parametrize("how", FORGERS)
def test_a_forged_renewal_does_not_count(office: Office, tmp_path: Path, how: str) -> None:
    said = renewed(office.key, office.signer, NOW + 21 * DAY)
    with pytest.raises(IdentityError, match="MDW-723"):
        renewed_until(FORGERS[how](office, said, tmp_path), office.key, office.ca, "it")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"x" * 20000, b"[" * 9000, b'{"at": {}}'])
def test_what_is_no_renewal_is_refused(text: bytes) -> None:
    with pytest.raises(IdentityError, match="MDW-723"):
        read_renewal(text, "it")

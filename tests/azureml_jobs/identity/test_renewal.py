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
    reissued,
    reissued_admission,
    renewed,
    renewed_until,
    says_less,
    terms_of_renewal,
)
from azureml_jobs.identity.signatures import HeadSigner, sign
from azureml_jobs.identity.signed_admission import Admission, read_admission
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


class Reissued:
    """A key that was renewed by word, on its 21st day until its 51st."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.word = renewed(office.key, office.signer, NOW + 21 * DAY)
        self.until = NOW + 51 * DAY
        self.key = replace(office.key, expires=self.until)

    def counted(self, certificate: str) -> str:
        said = replace(self.word, admission=certificate)
        again = read_renewal(said.to_text().encode(), "it")
        return reissued_admission(again, self.office.key, self.until, self.office.ca, "it")

    def signed(self, **other: object) -> str:
        """Have the CA sign the admission as it is, but for some of what it says."""
        at = NOW + 21 * DAY
        name, limits = self.office.authority.federation, self.office.key.limits
        said = Admission(name, "north", self.office.line, at, self.until, limits)
        authority = self.office.authority
        if "federation" in other:
            authority = replace(authority, federation=str(other["federation"]))
        return authority.sign(replace(said, **other))  # type: ignore[arg-type]  # by name


def test_a_new_certificate_says_what_the_admission_says_and_lasts_as_long_as_the_word(
    office: Office,
) -> None:
    after = Reissued(office)
    assert says_less(after.key) and not says_less(office.key)
    new = after.counted(reissued(after.key, office.authority))
    assert new != office.key.certificate
    said, known = read_admission(new, "it"), read_admission(office.key.certificate, "it")
    assert said == replace(known, expires=after.until)
    assert not says_less(replace(after.key, certificate=new))


def test_a_renewal_of_an_orchestrator_that_knew_no_new_certificates_is_read(office: Office) -> None:
    word = renewed(office.key, office.signer, NOW + 21 * DAY)
    of_before = word.to_text().replace(', "admission": ""', "")
    assert "admission" not in of_before
    again = read_renewal(of_before.encode(), "it")
    assert renewed_until(again, office.key, office.ca, "it") == NOW + 51 * DAY


CERTIFICATES: dict[str, Callable[[Reissued, Path], str]] = {
    "of another CA": lambda after, folder: reissued(after.key, Office(folder / "theirs").authority),
    "that lasts longer": lambda after, folder: after.signed(expires=after.until + 1),
    "of another silo": lambda after, folder: after.signed(silo="south"),
    "of another key": lambda after, folder: after.signed(line=fresh_node_key()[1]),
    "of another federation": lambda after, folder: after.signed(federation="other"),
    "with a limit more": lambda after, folder: after.signed(
        limits={**after.office.key.limits, "examples_at_most": 1e9}
    ),
    "without its limits": lambda after, folder: after.signed(limits={}),
    "that is none": lambda after, folder: "-----BEGIN CERTIFICATE-----",
    "that is the orchestrator's": lambda after, folder: after.word.certificate,
}


@pytest.mark.parametrize("which", CERTIFICATES)
def test_another_certificate_than_the_renewed_admission_s_does_not_count(
    office: Office, tmp_path: Path, which: str
) -> None:
    after = Reissued(office)
    assert after.counted(after.signed())
    with pytest.raises(IdentityError, match="MDW-723"):
        after.counted(CERTIFICATES[which](after, tmp_path))

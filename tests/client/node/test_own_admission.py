"""A silo finds its own admission, and takes no other for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from azureml_jobs.identity.node_key import fresh_node_key, load_node_key, public_line
from azureml_jobs.identity.signed_admission import Admission, read_admission
from azureml_jobs.rendezvous import FolderRendezvous, StaticRendezvous, admission_name
from client.node.own_admission import SiloAdmission
from conf.errors import IdentityError
from tests.azureml_jobs.identity.authorities import authority_in

DAY = 86400.0


class Silo:
    """A silo with a key, a CA, and a folder in which admissions are published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = authority_in(folder / "keys")
        self.ca = self.authority.secrets.get("ca-certificate")
        self.key = load_node_key(fresh_node_key()[0], "it")
        self.line = public_line(self.key.public_key())
        self.place = FolderRendezvous(folder / "place")

    def signed(self, days: float = 365, silo: str = "north", line: str = "") -> str:
        now = time.time()
        admission = Admission("test", silo, line or self.line, now, now + days * DAY)
        return self.authority.sign(admission)

    def publish(self, certificate: str) -> None:
        self.place.publish_admission(admission_name(self.line), certificate)

    def file(self, certificate: str) -> Path:
        path = self.folder / "admission.pem"
        path.write_text(certificate)
        return path

    def admission(self, file: Path | None = None) -> SiloAdmission:
        return SiloAdmission("north", self.key, self.ca, self.place, file)


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    return Silo(tmp_path)


def test_it_comes_with_the_rendezvous(silo: Silo) -> None:
    admission = silo.admission()
    assert admission.find() is None
    silo.publish(silo.signed())
    found = admission.find()
    assert found is not None and read_admission(found, "it").silo == "north"


def test_the_one_that_ends_last_counts(silo: Silo) -> None:
    short, long = silo.signed(1), silo.signed(300)
    admission = silo.admission(silo.file(short))
    assert admission.find() == short.encode()
    silo.publish(long)
    assert admission.find() == long.encode()


def test_a_published_one_of_another_ca_is_not_used(
    silo: Silo, caplog: pytest.LogCaptureFixture
) -> None:
    other = Silo(_made(silo.folder / "other"))
    silo.publish(other.signed(line=silo.line))
    assert silo.admission().find() is None
    assert "MDW-716" in caplog.text


@pytest.mark.parametrize("what", ["another key", "another silo", "garbage"])
def test_a_file_that_is_not_this_silo_s_is_refused(silo: Silo, what: str) -> None:
    files = {
        "another key": silo.signed(line=fresh_node_key()[1]),
        "another silo": silo.signed(silo="south"),
        "garbage": "garbage",
    }
    with pytest.raises(IdentityError, match="MDW-716"):
        silo.admission(silo.file(files[what]))


def test_a_file_that_is_not_there_is_named(silo: Silo) -> None:
    with pytest.raises(IdentityError, match=r"MDW-756.*nothing"):
        silo.admission(silo.folder / "nothing")


def test_too_long_a_record_is_not_read(silo: Silo) -> None:
    silo.publish("x" * 10_000)
    assert silo.admission().find() is None


def test_what_is_missing_names_the_key_and_only_a_rendezvous_is_waited_for(silo: Silo) -> None:
    said = str(silo.admission().missing())
    assert said.startswith("MDW-715: ") and "SHA256:" in said and "north" in said
    assert silo.admission().patience > 0
    fixed = SiloAdmission("north", silo.key, silo.ca, StaticRendezvous("127.0.0.1:1"))
    assert fixed.patience == 0


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder

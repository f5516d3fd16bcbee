"""The verbs of `meadow keys`, each as its owner would type it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from azureml_jobs.admitted_keys import AdmittedKeys
from azureml_jobs.keys import main
from conf.federation_folder import FederationFolder
from conf.schema import FederationConf
from server.store import FolderStore

ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000.0
DAY = 86400.0


class Office:
    """One owner's desk: a folder of keys, a store, and a clock that stands still."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.keys, self.store, self.now = folder / "keys", folder / "store", START
        self._capsys = capsys

    def do(self, *argv: str, store: Path | None = None) -> tuple[int, str, str]:
        where = ["--dir", str(self.keys), "--store", str(store or self.store)]
        status = main([*argv, *where], FolderStore, lambda: self.now)
        out, err = self._capsys.readouterr()
        return status, out, err

    def current(self) -> list[str]:
        return sorted(AdmittedKeys(FolderStore(self.store), lambda: self.now).current().values())


@pytest.fixture
def office(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Office:
    return Office(tmp_path, capsys)


def test_init_makes_the_ca_once(office: Office) -> None:
    status, out, _ = office.do("init", "--federation", "clinics")
    assert status == 0 and str(office.keys / "ca-certificate") in out
    assert b"BEGIN CERTIFICATE" in (office.keys / "ca-certificate").read_bytes()
    status, _, err = office.do("init")
    assert status == 8 and err.startswith("MDW-707") and err.count("\n") == 1


def test_silo_makes_a_key_and_says_where_its_public_half_is(office: Office) -> None:
    status, out, _ = office.do("silo", "north")
    public = office.keys / "node-north.pub"
    assert status == 0 and str(public) in out and "SHA256:" in out
    assert public.read_text().startswith("ecdsa-sha2-nistp384 ") and public.read_text().endswith(" north\n")
    assert (office.keys / "node-north").stat().st_mode & 0o777 == 0o600
    assert office.keys.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in out
    assert office.do("silo", "north")[0] == 8
    assert office.do("silo", "../north")[2].startswith("MDW-709")


def test_admit_list_and_revoke(office: Office) -> None:
    office.do("silo", "north")
    status, out, _ = office.do("admit", "north", str(office.keys / "node-north.pub"), "--days", "100")
    assert status == 0 and "north may connect" in out and office.current() == ["north"]
    _, table, _ = office.do("list")
    head, row = table.splitlines()
    assert head.split() == ["silo", "key", "since", "until", "state"]
    assert row.split()[0] == "north" and row.split()[2:] == ["2023-11-14", "2024-02-22", "admitted"]
    status, out, _ = office.do("revoke", "north", "--key", row.split()[1])
    assert status == 0 and out == f"Revoked: north {row.split()[1]}\n" and office.current() == []
    assert office.do("list")[1].splitlines()[1].split()[4:] == ["revoked", "2023-11-14"]
    status, _, err = office.do("revoke", "north")
    assert status == 8 and err.startswith("MDW-712")


def test_rotate_makes_admits_and_revokes(office: Office) -> None:
    office.do("silo", "north")
    public, secret = office.keys / "node-north.pub", office.keys / "node-north"
    office.do("admit", "north", str(public))
    before = public.read_text(), secret.read_bytes()
    status, out, _ = office.do("rotate", "north")
    assert status == 0 and "Revoked: north" in out and office.current() == ["north"]
    assert public.read_text() != before[0] and secret.read_bytes() != before[1]
    (admitted,) = AdmittedKeys(FolderStore(office.store), lambda: office.now).current()
    derived = subprocess.run(["ssh-keygen", "-y", "-f", secret], capture_output=True, text=True, check=True).stdout
    assert derived.split()[1] == public.read_text().split()[1] and b"BEGIN PUBLIC KEY" in admitted


def test_rotate_to_a_key_that_the_silo_made(office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silo = Office(tmp_path / "silo", capsys)
    silo.do("silo", "north")
    office.do("silo", "north")
    office.do("admit", "north", str(office.keys / "node-north.pub"))
    status, out, _ = office.do("rotate", "north", str(silo.keys / "node-north.pub"))
    assert status == 0 and out.count("Revoked") == 1 and office.current() == ["north"]
    status, out, _ = office.do("rotate", "north", str(silo.keys / "node-north.pub"))  # again: nothing left to end
    assert status == 0 and "Revoked" not in out and office.current() == ["north"]


def test_a_rotation_whose_new_key_can_not_be_admitted_keeps_the_old_one(office: Office, tmp_path: Path) -> None:
    office.do("silo", "north")
    secret = (office.keys / "node-north").read_bytes()
    (tmp_path / "file").write_text("")
    status, _, err = office.do("rotate", "north", store=tmp_path / "file")
    assert status == 6 and err.startswith("MDW-515")
    assert (office.keys / "node-north").read_bytes() == secret


def test_list_warns_of_what_expires(office: Office) -> None:
    office.do("init")
    office.do("silo", "north")
    office.do("admit", "north", str(office.keys / "node-north.pub"), "--days", "100")
    assert "Warning" not in office.do("list")[1]
    office.now += 94 * DAY
    assert "Warning: The key SHA256:" in office.do("list")[1] and "7 days or less" in office.do("list")[1]
    office.now += 7 * DAY
    out = office.do("list")[1]
    assert "expired on 2024-02-22" in out and out.splitlines()[1].endswith("expired")


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "MDW-702"), (b"\xff\xfe", "MDW-702"), (b"ssh-rsa AAAA", "MDW-702"), (None, "MDW-702")]
)
def test_admit_of_what_is_no_public_key_admits_nothing(
    office: Office, tmp_path: Path, content: bytes | None, code: str
) -> None:
    file = tmp_path / "some.pub"
    if content is not None:
        file.write_bytes(content)
    status, _, err = office.do("admit", "north", str(file))
    assert status == 8 and err.startswith(code) and err.count("\n") == 1 and office.current() == []


def test_a_private_key_given_for_a_public_one_is_not_echoed(office: Office) -> None:
    office.do("silo", "north")
    _, out, err = office.do("admit", "north", str(office.keys / "node-north"))
    assert err.startswith("MDW-702") and "BEGIN" not in out + err


def test_a_federation_has_its_place_where_its_jobs_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = FederationFolder.of(FederationConf(name="clinics"))
    for argv in (["init"], ["silo", "north"], ["admit", "north", str(folder.keys / "node-north.pub")]):
        assert main([*argv, "--federation", "clinics"], FolderStore) == 0, capsys.readouterr().err
    assert (folder.keys / "ca-key").is_file() and FolderStore(folder.store).list("keys/admitted/")
    assert main(["list", "--federation", "../elsewhere"], FolderStore) == 8
    assert main(["init"], FolderStore) == 0 and FederationFolder.of(FederationConf()).keys.is_dir()


def test_help_names_every_verb() -> None:
    code = "import sys; from azureml_jobs.keys import main; main(['--help'], None)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(verb in shown.stdout for verb in ("init", "silo", "admit", "list", "rotate", "revoke"))

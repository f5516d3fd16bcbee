"""The verbs of `meadow keys`, each as its owner would type it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.cli.arguments import parse
from azureml_jobs.cli.keys import keys
from azureml_jobs.cli.verbs import KEYS, VERBS, find
from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.node_key import fresh_node_key, node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import ConfigError, MeadowError
from conf.federation_folder import FederationFolder
from conf.schema import FederationConf
from server.orchestrator.backends import store_in
from server.store.admitted_keys import AdmittedKeys

ROOT = Path(__file__).resolve().parents[3]
START = 1_700_000_000.0
DAY = 86400.0
NORTH = node_secret("federation", "north")
"""The private half of north's key."""
NONE_ENDS = "No admission ends so soon.\n"


def type_keys(*argv: str, now: float = START) -> int:
    """Type `meadow keys ...` at a certain time."""
    verb, rest = find(["keys", *argv])
    assert not isinstance(verb, str)
    return keys(parse(verb, rest, KEYS), lambda: now)


class Office:
    """One owner's desk: a folder of keys, a store, and a clock that stands still."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.keys, self.store, self.now = folder / "keys", folder / "store", START
        self._capsys = capsys

    def do(self, verb: str, *argv: str, store: Path | None = None) -> tuple[int, str, str]:
        if verb in ("admit", "rotate") and not (self.keys / CA_CERTIFICATE).exists():
            make_ca(FolderSecrets(self.keys), "test", datetime.fromtimestamp(START, UTC))
        where = {"keys": self.keys, "store": store or self.store}
        takes = {argument.name for argument in VERBS[f"keys {verb}"].arguments}
        taken = [f"{key}={path}" for key, path in where.items() if key in takes]
        try:
            status, err = type_keys(verb, *argv, *taken, now=self.now), ""
        except MeadowError as error:
            status, err = error.exit_status, str(error)
        return status, self._capsys.readouterr().out, err

    def current(self) -> list[str]:
        return sorted(AdmittedKeys(FolderStore(self.store), lambda: self.now).current().values())


@pytest.fixture
def office(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Office:
    return Office(tmp_path, capsys)


def test_init_makes_the_ca_once(office: Office) -> None:
    status, out, _ = office.do("init", "federation.name=clinics")
    assert status == 0 and str(office.keys / "ca-certificate") in out
    assert b"BEGIN CERTIFICATE" in (office.keys / "ca-certificate").read_bytes()
    status, _, err = office.do("init")
    assert status == 8 and err.startswith("MDW-707") and "\n" not in err


def test_silo_makes_a_key_and_says_where_its_public_half_is(office: Office) -> None:
    status, out, _ = office.do("silo", "north")
    public = office.keys / "node-north.pub"
    assert status == 0 and str(public) in out and "SHA256:" in out
    assert public.read_text().startswith("ecdsa-sha2-nistp384 ") and public.read_text().endswith(
        " north\n"
    )
    assert (office.keys / NORTH).stat().st_mode & 0o777 == 0o600
    assert office.keys.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in out
    assert office.do("silo", "north")[0] == 8
    assert office.do("silo", "../north")[2].startswith("MDW-709")


def test_admit_list_and_revoke(office: Office) -> None:
    office.do("silo", "north")
    status, out, err = office.do("admit", "north", str(office.keys / "node-north.pub"), "days=100")
    assert status == 0, err
    assert status == 0 and "north may connect" in out and office.current() == ["north"]
    _, table, _ = office.do("list")
    head, row = table.splitlines()
    assert head.split() == ["silo", "key", "since", "until", "state"]
    assert row.split()[0] == "north" and row.split()[2:] == ["2023-11-14", "2024-02-22", "admitted"]
    status, out, _ = office.do("revoke", "north", f"key={row.split()[1]}")
    assert status == 0 and out == f"Revoked: north {row.split()[1]}\n" and office.current() == []
    assert office.do("list")[1].splitlines()[1].split()[4:] == ["revoked", "2023-11-14"]
    status, _, err = office.do("revoke", "north")
    assert status == 8 and err.startswith("MDW-712")


def admitted(office: Office, *argv: str) -> None:
    office.do("silo", "north")
    status, _, err = office.do("admit", "north", str(office.keys / "node-north.pub"), *argv)
    assert status == 0, err


def test_renew_signs_anew_what_ends_soon_and_keeps_its_limits(office: Office) -> None:
    admitted(office, "days=100", "examples_at_most=500")
    assert office.do("renew")[1] == NONE_ENDS
    office.now += 80 * DAY
    status, out, _ = office.do("renew", "days=100")
    assert status == 0 and out.startswith("north may connect with SHA256:")
    office.now += 99 * DAY
    (key,) = AdmittedKeys(FolderStore(office.store), lambda: office.now).current_keys()
    assert key.limits == {"examples_at_most": 500.0}
    assert office.do("renew", "within=0.5")[1] == NONE_ENDS


def test_an_admission_that_has_ended_is_renewed_where_its_silo_is_named(office: Office) -> None:
    admitted(office, "days=10")
    office.now += 11 * DAY
    assert office.current() == [] and office.do("renew")[1] == NONE_ENDS
    assert office.do("renew", "north", "days=10")[0] == 0
    assert office.current() == ["north"]
    status, _, err = office.do("renew", "north", "days=1")
    assert status == 2 and "ends later" in err


def test_a_revoked_key_and_a_stranger_are_not_renewed(office: Office) -> None:
    admitted(office, "days=10")
    office.do("revoke", "north")
    assert office.do("renew", "north")[2].startswith("MDW-724")
    assert office.do("renew", "within=100")[1] == NONE_ENDS and office.current() == []
    assert office.do("renew", "stranger")[2].startswith("MDW-724")


def test_renewable_says_how_far_the_orchestrator_may_go(office: Office) -> None:
    admitted(office, "days=30", "renewable=365")
    (key,) = AdmittedKeys(FolderStore(office.store), lambda: office.now).current_keys()
    assert key.limits == {"renewed_days": 30.0, "renewable_until": START + 365 * DAY}
    status, _, err = office.do("renew", "north", "days=90", "renewable=60")
    assert status == 2 and "renewable=60" in err


def test_rotate_makes_admits_and_revokes(office: Office) -> None:
    office.do("silo", "north")
    public, secret = office.keys / "node-north.pub", office.keys / NORTH
    office.do("admit", "north", str(public))
    before = public.read_text(), secret.read_bytes()
    status, out, _ = office.do("rotate", "north")
    assert status == 0 and "Revoked: north" in out and office.current() == ["north"]
    assert public.read_text() != before[0] and secret.read_bytes() != before[1]
    (admitted,) = AdmittedKeys(FolderStore(office.store), lambda: office.now).current()
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", secret], capture_output=True, text=True, check=True
    ).stdout
    assert derived.split()[1] == public.read_text().split()[1] and b"BEGIN PUBLIC KEY" in admitted


def test_rotate_to_a_key_that_the_silo_made(
    office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silo = Office(tmp_path / "silo", capsys)
    silo.do("silo", "north")
    office.do("silo", "north")
    office.do("admit", "north", str(office.keys / "node-north.pub"))
    status, out, _ = office.do("rotate", "north", str(silo.keys / "node-north.pub"))
    assert status == 0 and out.count("Revoked") == 1 and office.current() == ["north"]
    status, out, _ = office.do(
        "rotate", "north", str(silo.keys / "node-north.pub")
    )  # again: nothing left to end
    assert status == 0 and "Revoked" not in out and office.current() == ["north"]


def test_a_rotation_whose_new_key_can_not_be_admitted_keeps_the_old_one(
    office: Office, tmp_path: Path
) -> None:
    office.do("silo", "north")
    secret = (office.keys / NORTH).read_bytes()
    (tmp_path / "file").write_text("")
    status, _, err = office.do("rotate", "north", store=tmp_path / "file")
    assert status == 6 and err.startswith("MDW-531")
    assert (office.keys / NORTH).read_bytes() == secret


def test_list_warns_of_what_expires(office: Office) -> None:
    office.do("init")
    office.do("silo", "north")
    office.do("admit", "north", str(office.keys / "node-north.pub"), "days=100")
    assert "Warning" not in office.do("list")[1]
    office.now += 94 * DAY
    assert (
        "Warning: The key SHA256:" in office.do("list")[1]
        and "7 days or less" in office.do("list")[1]
    )
    office.now += 7 * DAY
    out = office.do("list")[1]
    assert "expired on 2024-02-22" in out and out.splitlines()[1].endswith("expired")


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "MDW-702"), (b"\xff\xfe", "MDW-702"), (b"ssh-rsa AAAA", "MDW-702"), (None, "MDW-702")],
)
def test_admit_of_what_is_no_public_key_admits_nothing(
    office: Office, tmp_path: Path, content: bytes | None, code: str
) -> None:
    file = tmp_path / "some.pub"
    if content is not None:
        file.write_bytes(content)
    status, _, err = office.do("admit", "north", str(file))
    assert status == 8 and err.startswith(code) and "\n" not in err and office.current() == []


def test_a_private_key_given_for_a_public_one_is_not_echoed(office: Office) -> None:
    office.do("silo", "north")
    _, out, err = office.do("admit", "north", str(office.keys / NORTH))
    assert err.startswith("MDW-702") and "BEGIN" not in out + err


def test_a_federation_has_its_place_where_its_jobs_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = FederationFolder.of(FederationConf(name="clinics"))
    for argv in (
        ["init"],
        ["silo", "north"],
        ["admit", "north", str(folder.keys / "node-north.pub")],
    ):
        assert type_keys(*argv, "federation.name=clinics") == 0
    assert (folder.keys / "ca-key").is_file() and store_in(folder).list("keys/admitted/")
    with pytest.raises(ConfigError, match=r"MDW-104"):
        type_keys("list", "federation.name=../elsewhere")
    assert type_keys("init") == 0 and FederationFolder.of(FederationConf()).keys.is_dir()


def test_help_names_every_verb() -> None:
    verbs = [name.partition(" ")[2] for name in VERBS if name.startswith("keys ")]
    for argv in (["--help"], []):
        command = [sys.executable, "-m", "azureml_jobs.cli.main", "keys", *argv]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert shown.returncode == 0 and all(f"  keys {verb} " in shown.stdout for verb in verbs)


@pytest.mark.parametrize(
    "argv",
    [
        ["innit"], ["init", "north"], ["silo"], ["silo", "north", "x.pub"], ["init", "--new"], ["list", "days=1"],
        ["silo", "north", "--dir", "x"], ["admit", "north"], ["admit", "north", "x.pub", "days=many"],
        ["admit", "north", "x.pub", "days=0"], ["admit", "north", "x.pub", "days=nan"],
        ["init", "keys=x", "key_vault=kv-x"], ["silo", "north", "key_vault="], ["init", "run.rounds=1"],
    ],
)  # fmt: skip
def test_what_a_verb_does_not_take_is_told_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pub").write_text(fresh_node_key()[1])
    with pytest.raises(ConfigError, match=r"MDW-111: meadow keys"):
        type_keys(*argv)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pub"]


def test_a_new_key_takes_the_place_of_a_silo_s_present_one(office: Office) -> None:
    office.do("silo", "north")
    public = office.keys / "node-north.pub"
    office.do("admit", "north", str(public))
    before = public.read_text()
    status, out, _ = office.do("silo", "north", "--new")
    assert status == 0 and "meadow keys rotate north" in out and public.read_text() != before
    assert office.current() == [
        "north"
    ]  # the older one, until the orchestrator's owner has rotated
    assert office.do("rotate", "north", str(public))[1].count("Revoked") == 1


def test_a_lost_public_half_is_handed_out_again(office: Office) -> None:
    office.do("silo", "north")
    public = office.keys / "node-north.pub"
    before = public.read_text()
    public.unlink()
    assert office.do("silo", "north")[0] == 0 and public.read_text() == before


def test_a_federation_s_file_names_silos_and_their_public_halves(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_text(
        "name: clinics\nsilos: {north: {public_key: handed/north.pub}, south: {}}"
    )
    office.do("silo", "north")
    (tmp_path / "handed").mkdir()
    (office.keys / "node-north.pub").rename(tmp_path / "handed" / "north.pub")
    assert office.do("admit", "north", "federation.file=f.yaml")[0] == 0 and office.current() == [
        "north"
    ]
    status, _, err = office.do("admit", "west", "federation.file=f.yaml")
    assert status == 2 and err.startswith(
        "MDW-111: meadow keys admit: the federation has no silo 'west'. Its silos: north, south."
    )
    assert office.do("revoke", "west", "federation.file=f.yaml")[2].startswith("MDW-712")


def test_a_reader_that_goes_away_does_not_break_a_rotation_off(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.do("silo", "north")
    office.do("admit", "north", str(office.keys / "node-north.pub"))
    before = AdmittedKeys(FolderStore(office.store), lambda: office.now).current()

    def gone(*lines: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    with pytest.raises(BrokenPipeError):
        office.do("rotate", "north")
    after = AdmittedKeys(FolderStore(office.store), lambda: office.now).current()
    assert len(after) == 1 and after.keys() != before.keys()

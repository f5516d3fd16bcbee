"""`meadow keys` with Key Vaults and a store in a container, each command typed by its owner with their own rights."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from azureml_jobs.identity.authority import server_credentials
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import load_node_key, node_secret, public_line
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.rehearse import SCIENTIST_RIGHTS
from azureml_jobs.storage.base import Store
from azureml_jobs.storage.rights import PLACES
from conf.compose import compose
from conf.errors import CheckpointError
from conf.schema import Conf
from server.orchestrator.backends import store_of
from server.store.admitted_keys import AdmittedKeys

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
ENGINEER, OWNER = "engineer", "owner of north"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class People:
    """The engineer and the silos' owners, each with a federation's file in a folder of their own."""

    cloud: LoopbackCloud
    folder: Path
    name: str

    def place(self, who: str) -> Path:
        folder = self.folder / who.replace(" ", "-")
        if not folder.is_dir():
            folder.mkdir()
            (folder / "hospitals.yaml").write_text(
                f"name: {self.name}\n"
                "orchestrator:\n"
                f"  workspace: {{subscription_id: {SUBSCRIPTION}, resource_group: meadow, name: hub}}\n"
                "  datastore: federation\n"
                "  key_vault: kv-hub\n"
                "silos:\n"
                "  north: {key_vault: kv-north}\n"
                "  south: {key_vault: kv-south}\n"
            )
        return folder

    def type(self, who: str, command: str, status: int = 0, *, anew: bool = False) -> str:
        """Type a command as somebody, in their folder, and return what it said; `anew` starts a process for it."""
        run = self._started if anew else self._called
        found, said = run(
            command.removeprefix("meadow ").split(), self.cloud.signed_in_as(who), self.place(who)
        )
        assert found == status, said
        assert "PRIVATE" not in said
        return said

    def _called(self, words: list[str], signed_in: dict[str, str], folder: Path) -> tuple[int, str]:
        """In this process, which saves its start and the imports."""
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as said,
        ):
            patch.chdir(folder)
            for key, value in signed_in.items():
                patch.setenv(key, value)
            with contextlib.redirect_stderr(said):
                return main(words), said.getvalue()

    def _started(
        self, words: list[str], signed_in: dict[str, str], folder: Path
    ) -> tuple[int, str]:
        command, environment = (
            [sys.executable, "-m", "azureml_jobs.cli.main", *words],
            os.environ | signed_in,
        )
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    def hand_over(self, file: str, giver: str, taker: str) -> None:
        (self.place(taker) / file).write_bytes((self.place(giver) / file).read_bytes())

    def store(self) -> Store:
        """The federation's store, as whom this process is signed in."""
        return store_of(self.conf())

    def current(self) -> dict[bytes, str]:
        return AdmittedKeys(self.store(), time.time).current()

    def conf(self) -> Conf:
        return compose([
            f"federation.file={self.place(ENGINEER) / 'hospitals.yaml'}",
            "federation.orchestrator.store=https://hub.blob.core.windows.net/federation",
        ])  # fmt: skip


@pytest.fixture
def people(cloud: LoopbackCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    """A hub with a store, and three empty vaults; this process has the engineer's rights."""
    hub = cloud.workspace("hub", account="hub")
    cloud.datastore(hub, "federation", "hub", "federation")
    for place in PLACES:
        cloud.accounts.container("hub", f"federation-{place}")
    cloud.access.grant(ENGINEER, "AzureML Data Scientist", "workspace:hub")
    cloud.access.grant(ENGINEER, "Storage Blob Data Contributor", "storage:hub")
    for who, vault in ((ENGINEER, "kv-hub"), (OWNER, "kv-north"), ("owner of south", "kv-south")):
        cloud.access.grant(who, "Key Vault Secrets Officer", f"vault:{vault}")
        for key, value in cloud.signed_in_as(who).items():
            monkeypatch.setenv(key, value)
        for name in (secrets := VaultSecrets(vault)).list():
            secrets.delete(name)
    for key, value in cloud.signed_in_as(ENGINEER).items():
        monkeypatch.setenv(key, value)
    cloud.request_log.forget()
    return People(cloud, tmp_path, f"keys-{tmp_path.name}"[:64])


def commands() -> list[tuple[str, str]]:
    """Return the commands of docs/azure.md's section on keys: who types each, and what."""
    section = (ROOT / "docs" / "azure.md").read_text().split("## Keys")[1].split("## Launch")[0]
    lines = [
        line.split("#")
        for block in re.findall(r"```\n(.*?)```", section, re.DOTALL)
        for line in block.splitlines()
    ]
    return [
        (ENGINEER if who.strip().startswith("the engineer") else OWNER, what.strip())
        for what, who in lines
    ]


@pytest.mark.parametrize(
    "anew", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["called", "typed"]
)
def test_the_page_s_commands_give_each_role_its_keys_and_change_them(
    people: People, anew: bool
) -> None:
    said = []
    for who, command in commands():
        said.append(people.type(who, command, anew=anew))
        if who == OWNER:
            people.hand_over("north.pub", OWNER, ENGINEER)
    authority = (people.place(ENGINEER) / "ca.pem").read_bytes()
    assert (
        server_credentials(VaultSecrets("kv-hub"), ["127.0.0.1"], datetime.now(UTC)).ca == authority
    )
    first, second = (re.findall(r"SHA256:\S+", said[i])[0] for i in (1, 4))
    assert re.search(rf"^north +{re.escape(first)} .* admitted$", said[3], re.MULTILINE)
    assert f"north may connect with {second}" in said[5] and f"Revoked: north {first}" in said[5]
    assert list(people.current().values()) == ["north"]
    people.type(ENGINEER, "meadow keys revoke north federation.file=hospitals.yaml")
    assert people.current() == {}
    assert people.cloud.request_log.refused() == []  # nobody asked for what is another's


def test_the_key_in_the_vault_is_the_one_that_was_handed_out(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.type(OWNER, "meadow keys silo north key_vault=kv-north")
    for variable, value in people.cloud.signed_in_as(OWNER).items():
        monkeypatch.setenv(variable, value)
    public = load_node_key(
        VaultSecrets("kv-north").get(node_secret("federation", "north")), "the vault"
    ).public_key()
    handed = people.place(OWNER) / "north.pub"
    assert handed.read_text() == f"{public_line(public)} north\n"
    assert [path.name for path in handed.parent.iterdir() if path.is_file()] == [
        "hospitals.yaml",
        "north.pub",
    ]
    assert "MDW-707" in people.type(OWNER, "meadow keys silo north key_vault=kv-north", status=8)
    handed.unlink()
    people.type(OWNER, "meadow keys silo north key_vault=kv-north")
    assert handed.read_text() == f"{public_line(public)} north\n"


def test_the_ca_is_handed_out_again_and_another_s_certificate_is_not_written_over(
    people: People,
) -> None:
    init = "meadow keys init key_vault=kv-hub"
    people.type(ENGINEER, init)
    path = people.place(ENGINEER) / "ca.pem"
    certificate = path.read_bytes()
    assert "MDW-707" in people.type(ENGINEER, init, status=8)
    path.unlink()
    people.type(ENGINEER, init)
    assert path.read_bytes() == certificate
    path.write_text("another federation's")
    assert "MDW-707" in people.type(ENGINEER, init, status=8)
    assert path.read_text() == "another federation's"


def test_who_may_not_is_told_the_role_and_nothing_is_written(people: People) -> None:
    said = people.type("owner of south", "meadow keys silo north key_vault=kv-north", status=9)
    assert "MDW-801" in said and "Key Vault Secrets" in said
    said = people.type(
        "owner of south", "meadow keys init federation.file=hospitals.yaml", status=9
    )
    assert "MDW-801" in said and "kv-hub" in said
    files = {path.name for path in people.place("owner of south").iterdir()}
    assert files == {"hospitals.yaml"}


def test_who_may_see_the_list_need_not_see_the_vault(people: People) -> None:
    for role, place in (
        ("AzureML Data Scientist", "workspace:hub"),
        ("Storage Blob Data Contributor", "storage:hub"),
    ):
        people.cloud.access.grant("data scientist", role, place)
    said = people.type("data scientist", "meadow keys list federation.file=hospitals.yaml")
    assert said.startswith("silo") and "The CA was not looked at" in said


def test_who_may_ask_for_a_run_may_not_admit_a_silo(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The roles of docs/azure.md: a data scientist has the containers of the queue and the results."""
    people.cloud.access.grant("asker", "AzureML Data Scientist", "workspace:hub")
    for container, role in SCIENTIST_RIGHTS.items():
        people.cloud.access.grant("asker", role, f"storage:hub/{container}")
    said = people.type("asker", "meadow keys revoke north federation.file=hospitals.yaml", status=6)
    assert "MDW-514" in said and "federation-admissions" in said
    for key, value in people.cloud.signed_in_as("asker").items():
        monkeypatch.setenv(key, value)
    store = people.store()
    store.put_if_absent("queue/requests/1.a", b"{}")
    assert store.list("queue/requests/") == ["queue/requests/1.a"]
    for name in ("keys/admitted/x.json", "queue/ended/1.a", "results/a/x", "runs/a/x"):
        with pytest.raises(CheckpointError, match="MDW-514"):
            store.replace(name, b"")
    for name in ("keys/admitted/x.json", "runs/a/x"):
        with pytest.raises(CheckpointError, match="MDW-514"):
            store.read(name)

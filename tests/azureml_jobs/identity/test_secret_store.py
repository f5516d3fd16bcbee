"""A secret is its owner's alone, written whole, and refused where others could have read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.identity.secret_store import FolderSecrets, SecretStore, checked_name
from conf.errors import IdentityError


def raises(pattern: str) -> Any:
    return pytest.raises(IdentityError, match=pattern)


@pytest.fixture
def secrets(tmp_path: Path) -> FolderSecrets:
    return FolderSecrets(tmp_path / "keys")


def test_secrets_are_the_owner_s_alone_whatever_the_umask(
    secrets: FolderSecrets, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        secrets.set("token", b"one")
        secrets.set("token", b"two")
    finally:
        os.umask(before)
    assert secrets.get("token") == b"two" and secrets.list() == ["token"]
    assert (tmp_path / "keys" / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert [p.name for p in (tmp_path / "keys").iterdir()] == ["token"]
    secrets.delete("token")
    secrets.delete("token")
    assert secrets.list() == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o1644, 0o1666])
def test_a_private_file_that_others_may_use_is_refused_with_how_to_mend_it(
    secrets: FolderSecrets, tmp_path: Path, mode: int
) -> None:
    secrets.set("token", b"one")
    path = tmp_path / "keys" / "token"
    path.chmod(mode)
    with raises(f"MDW-701: Others may use .*{mode:04o}.* chmod 0600 {path}"):
        secrets.get("token")
    path.chmod(0o400)
    assert secrets.get("token") == b"one"


def test_a_folder_that_others_may_write_is_refused(secrets: FolderSecrets, tmp_path: Path) -> None:
    secrets.set("token", b"one")
    (tmp_path / "keys").chmod(0o777)
    with raises("MDW-701.* chmod 0700"):
        secrets.get("token")
    with raises("MDW-701"):
        secrets.set("other", b"two")
    (tmp_path / "keys").chmod(0o700)
    assert secrets.list() == ["token"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_private_file_of_another_user_is_refused(
    secrets: FolderSecrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets.set("token", b"one")
    for path in (tmp_path / "keys" / "token", tmp_path / "keys"):
        os.chown(path, 4343, -1)
        monkeypatch.setattr("os.geteuid", lambda: 4242)
        with raises("MDW-701: .* belongs to another user .uid 4343"):
            secrets.get("token")
        monkeypatch.undo()
        os.chown(path, os.geteuid(), -1)
    assert secrets.get("token") == b"one"


def test_a_file_system_without_modes_is_named_before_a_key_is_written(
    secrets: FolderSecrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Azure Files is mounted: `dir_mode=0777,file_mode=0777`."""

    def made_for_everybody(**given: object) -> str:
        folder = tmp_path / "keys" / "probe"
        folder.mkdir()
        folder.chmod(0o777)
        return str(folder)

    monkeypatch.setattr("tempfile.mkdtemp", made_for_everybody)
    with raises("MDW-776: .* keeps no modes.*key_vault"):
        secrets.set("token", b"one")
    assert secrets.list() == []
    assert list((tmp_path / "keys").iterdir()) == []


def test_a_missing_or_unreadable_secret_says_so(secrets: FolderSecrets, tmp_path: Path) -> None:
    assert secrets.list() == []
    with raises("MDW-700: There is no .*token"):
        secrets.get("token")
    (tmp_path / "keys" / "token").mkdir(parents=True)
    (tmp_path / "keys").chmod(0o700)
    with raises("MDW-70[12]"):
        secrets.get("token")


@pytest.mark.parametrize(
    "name", ["", "../x", "/etc/passwd", ".hidden", "a/b", "a b", "a\n", "x" * 65, "é"]
)
def test_a_name_that_could_leave_the_folder_is_refused(secrets: FolderSecrets, name: str) -> None:
    with raises("MDW-709"):
        checked_name(name)
    if len(name) < 65:
        with raises("MDW-709"):
            secrets.set(name, b"")


def test_a_folder_that_can_not_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises("MDW-713: Can't write"):
        FolderSecrets(tmp_path / "file").set("token", b"")


def test_folder_secrets_are_a_secret_store(secrets: FolderSecrets) -> None:
    store: SecretStore = secrets
    assert store.list() == []

"""Who may connect: added and revoked while a server runs, by several people at once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from azureml_jobs.identity.node_key import (
    fresh_node_key,
    load_public_key,
)
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import CheckpointError, IdentityError
from server.store.admitted_keys import AdmittedKeys
from tests.azureml_jobs.identity.authorities import authority_in

PEM = serialization.Encoding.PEM


def raises(pattern: str) -> Any:
    return pytest.raises(IdentityError, match=pattern)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admitted(tmp_path: Path, clock: Clock) -> AdmittedKeys:
    return AdmittedKeys(FolderStore(tmp_path / "store"), clock, authority_in(tmp_path / "keys"))


def flower_header(line: str) -> bytes:
    key = load_public_key(line, "x")
    return key.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_an_admitted_key_is_known_by_the_header_that_flower_sends(admitted: AdmittedKeys) -> None:
    _, line = fresh_node_key()
    key = admitted.admit("north", line + " someone@somewhere")
    assert admitted.current() == {flower_header(line): "north"}
    assert key.line == line and key.expires - key.since == 365 * 86400


def test_adding_and_revoking_are_seen_by_a_running_server(
    tmp_path: Path, admitted: AdmittedKeys, clock: Clock
) -> None:
    server = AdmittedKeys(FolderStore(tmp_path / "store"), clock)
    lines = [fresh_node_key()[1] for _ in range(2)]
    admitted.admit("north", lines[0])
    assert set(server.current().values()) == {"north"}
    admitted.admit("north", lines[1])
    assert server.current() == {flower_header(line): "north" for line in lines}
    clock.now += 5
    ended = admitted.revoke("north", but=admitted.admit("north", lines[1]).fingerprint)
    assert [key.line for key in ended] == lines[:1]
    assert server.current() == {flower_header(lines[1]): "north"}
    assert {key.line: key.revoked for key in server.all()} == {lines[0]: clock.now, lines[1]: None}


def test_a_revoked_key_never_comes_back(admitted: AdmittedKeys) -> None:
    _, line = fresh_node_key()
    admitted.admit("north", line)
    admitted.revoke("north")
    with raises("MDW-711"):
        admitted.admit("north", line)
    assert admitted.current() == {}


def test_one_key_is_of_one_silo(admitted: AdmittedKeys) -> None:
    _, line = fresh_node_key()
    first = admitted.admit("north", line)
    with raises("MDW-710.*admitted for north"):
        admitted.admit("south", line)
    assert admitted.admit("north", line, days=1) == first
    assert admitted.current() == {flower_header(line): "north"}


def test_an_admission_ends(admitted: AdmittedKeys, clock: Clock) -> None:
    _, line = fresh_node_key()
    admitted.admit("north", line, days=1)
    clock.now += 86399
    assert admitted.current()
    clock.now += 1
    assert admitted.current() == {}


def test_revoking_what_is_not_there_names_what_is(admitted: AdmittedKeys) -> None:
    with raises("MDW-712.*Silos with a key: none"):
        admitted.revoke("north")
    admitted.admit("south", fresh_node_key()[1])
    with raises("MDW-712.*Silos with a key: south"):
        admitted.revoke("north")
    with raises("MDW-712"):
        admitted.revoke("south", only="SHA256:unknown")


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 2, "certificate": "x"}']
)
def test_a_damaged_entry_admits_nobody_and_harms_nobody(
    tmp_path: Path, admitted: AdmittedKeys, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore(tmp_path / "store")
    admitted.admit("north", fresh_node_key()[1])
    store.replace("keys/admitted/" + "0" * 64 + ".json", damage)
    with caplog.at_level(logging.ERROR):
        assert list(admitted.current().values()) == ["north"]
    assert "MDW-7" in caplog.text
    with raises("MDW-7"):
        admitted.all()


def test_an_entry_under_another_key_s_name_admits_nobody(
    tmp_path: Path, admitted: AdmittedKeys
) -> None:
    store = FolderStore(tmp_path / "store")
    admitted.admit("north", fresh_node_key()[1])
    (name,) = store.list("keys/admitted/")
    store.put_if_absent("keys/admitted/" + "0" * 64 + ".json", store.read(name))
    store.put_if_absent(name.replace("admitted", "revoked"), b"damaged too, and it still counts")
    assert AdmittedKeys(store, lambda: 0.0).current() == {}


def test_an_entry_of_another_version_admits_nobody_and_both_versions_are_logged(
    tmp_path: Path, admitted: AdmittedKeys, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore(tmp_path / "store")
    admitted.admit("north", fresh_node_key()[1])
    admitted.admit("south", fresh_node_key()[1])
    north = next(key for key in admitted.all() if key.silo == "north")
    name = next(
        one
        for one in store.list("keys/admitted/")
        if json.loads(store.read(one))["certificate"] == north.certificate
    )
    store.replace(name, store.read(name).replace(b'"version": 2', b'"version": 99'))
    again = AdmittedKeys(store, lambda: 0.0)
    assert list(again.current().values()) == ["south"]
    assert "MDW-505" in caplog.text and "version 99; this Meadow reads version 2" in caplog.text
    with pytest.raises(CheckpointError, match="MDW-505"):
        again.all()

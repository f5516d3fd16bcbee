"""A node key is what Flower and OpenSSH read; any other is refused in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from azureml_jobs.identity.node_key import (
    fingerprint,
    fresh_node_key,
    load_node_key,
    load_public_key,
    make_node_key,
    node_secret,
    public_line,
    read_node_key,
)
from azureml_jobs.identity.secret_store import FolderSecrets
from conf.errors import CheckpointError, IdentityError

PEM, OPENSSH = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
PLAIN = serialization.NoEncryption()

NORTH = node_secret("clinics", "north")


def raises(pattern: str) -> Any:
    return pytest.raises(IdentityError, match=pattern)


@pytest.fixture
def secrets(tmp_path: Path) -> FolderSecrets:
    return FolderSecrets(tmp_path / "keys")


def test_a_node_key_is_p384_in_the_format_that_flower_and_openssh_read(
    secrets: FolderSecrets, tmp_path: Path
) -> None:
    line = make_node_key(secrets, "clinics", "north")
    key = load_node_key(secrets.get(NORTH), "x")
    assert public_line(key.public_key()) == line and line.startswith("ecdsa-sha2-nistp384 ")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", secrets.where(NORTH)], capture_output=True, text=True
    )
    assert shown.stdout.split()[:2] == ["384", fingerprint(key.public_key())]
    with raises("MDW-707.*keys silo north --new"):
        make_node_key(secrets, "clinics", "north")
    assert public_line(load_node_key(secrets.get(NORTH), "x").public_key()) == line


def test_a_key_that_ssh_keygen_made_is_read(tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(tmp_path / "k")]
    subprocess.run(command, check=True)
    key = load_node_key((tmp_path / "k").read_bytes(), "k")
    public = load_public_key((tmp_path / "k.pub").read_text(), "k.pub")
    assert key.public_key() == public


def wrong_keys() -> dict[str, tuple[str, bytes]]:
    made: dict[str, tuple[str, Any]] = {
        "P-256": ("ECDSA on secp256r1", ec.generate_private_key(ec.SECP256R1())),
        "RSA": ("RSA", rsa.generate_private_key(65537, 2048)),
        "Ed25519": ("Ed25519", ed25519.Ed25519PrivateKey.generate()),
    }
    return {
        name: (said, key.private_bytes(PEM, OPENSSH, PLAIN)) for name, (said, key) in made.items()
    }


@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
def test_a_node_key_of_another_type_is_refused(kind: str) -> None:
    said, secret = wrong_keys()[kind]
    with raises(f"MDW-703: node.key is {said}; a node key is ECDSA on P-384"):
        load_node_key(secret, "node.key")
    public = serialization.load_ssh_private_key(secret, None).public_key()
    line = public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()
    with raises(f"MDW-703: node.pub is {said}"):
        load_public_key(line, "node.pub")


def test_what_is_no_node_key_is_refused_in_one_line_without_its_content(tmp_path: Path) -> None:
    good, line = fresh_node_key()
    pkcs8 = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, PLAIN
    )
    for wrong in (b"", b"garbage", good[: len(good) // 2], pkcs8, line.encode()):
        with raises(r"MDW-702: node.key is not a private key") as caught:
            load_node_key(wrong, "node.key")
        assert "\n" not in str(caught.value) and "BEGIN" not in str(caught.value)
    path = tmp_path / "locked"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "a phrase", "-f", str(path)],
        check=True,
    )
    with raises("MDW-702.*passphrase"):
        load_node_key(path.read_bytes(), "node.key")
    for bad in ("", "garbage", "ecdsa-sha2-nistp384 AAAA", good.decode()):
        with raises("MDW-702: node.pub is not a public key"):
            load_public_key(bad, "node.pub")


def test_a_key_under_a_name_of_another_version_is_not_made_again_nor_read(
    secrets: FolderSecrets,
) -> None:
    secrets.set("node3-7-clinics-north", b"a later key")
    for look in (
        lambda: read_node_key(secrets, "clinics", "north"),
        lambda: make_node_key(secrets, "clinics", "north"),
    ):
        with pytest.raises(
            CheckpointError, match=r"MDW-505.*node3-7-clinics-north.*version 3;.*version 2\."
        ):
            look()
    assert secrets.list() == ["node3-7-clinics-north"]
    make_node_key(secrets, "clinics", "south")
    assert read_node_key(secrets, "clinics", "south").curve.name == "secp384r1"
    with raises("MDW-700"):
        read_node_key(secrets, "clinics", "west")


def test_no_two_pairs_of_federation_and_silo_share_a_name() -> None:
    names = ["a", "b", "a-b", "b-c", "a-b-c", "1-a", "a" * 64, "a" * 63, f"{'a' * 63}-", "2-a-b"]
    pairs = [(federation, silo) for federation in names for silo in names]
    assert len({node_secret(*pair) for pair in pairs}) == len(pairs)
    assert all(len(node_secret(*pair)) <= 80 for pair in pairs)
    assert node_secret("a-b", "c") != node_secret("a", "b-c")


def test_a_key_of_version_1_is_named_and_not_taken(secrets: FolderSecrets) -> None:
    secrets.set("node-north", b"one key for every federation")
    with pytest.raises(CheckpointError, match=r"MDW-505.*node-north.*version 1;.*version 2\."):
        make_node_key(secrets, "clinics", "north")

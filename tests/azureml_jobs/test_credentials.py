"""A key or certificate that can't be trusted or used is refused in one line; the others work in gRPC and OpenSSH."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from azureml_jobs.credentials import (
    CA_CERTIFICATE,
    CA_KEY,
    AdmittedKeys,
    FolderSecrets,
    SecretStore,
    ServerCredentials,
    checked_name,
    expiry_warning,
    fingerprint,
    fresh_node_key,
    load_ca,
    load_node_key,
    load_public_key,
    make_ca,
    make_node_key,
    public_line,
    server_credentials,
)
from conf.errors import IdentityError
from server.store import FolderStore

NOW = datetime.now(UTC).replace(microsecond=0)
PEM, OPENSSH = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
PLAIN = serialization.NoEncryption()


def raises(pattern: str) -> Any:
    return pytest.raises(IdentityError, match=pattern)


@pytest.fixture
def secrets(tmp_path: Path) -> FolderSecrets:
    return FolderSecrets(tmp_path / "keys")


# ---- secrets


def test_secrets_are_the_owner_s_alone_whatever_the_umask(secrets: FolderSecrets, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
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


def test_a_missing_or_unreadable_secret_says_so(secrets: FolderSecrets, tmp_path: Path) -> None:
    assert secrets.list() == []
    with raises("MDW-700: There is no .*token"):
        secrets.get("token")
    (tmp_path / "keys" / "token").mkdir(parents=True)
    (tmp_path / "keys").chmod(0o700)
    with raises("MDW-70[12]"):
        secrets.get("token")


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", ".hidden", "a/b", "a b", "a\n", "x" * 65, "é"])
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


# ---- the CA and the server's certificate


def test_a_ca_is_made_once(secrets: FolderSecrets) -> None:
    certificate = make_ca(secrets, "clinics", NOW)
    assert load_ca(secrets.get(CA_CERTIFICATE), "ca", NOW) == certificate
    assert certificate.not_valid_after_utc - NOW == timedelta(days=3650)
    assert secrets.list() == [CA_CERTIFICATE, CA_KEY]
    with raises("MDW-707"):
        make_ca(secrets, "clinics", NOW)
    assert secrets.get(CA_CERTIFICATE) == certificate.public_bytes(PEM)


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc comes without types
    """One method that returns what it was sent."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


@contextmanager
def serving(credentials: ServerCredentials) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Echo()])
    pair = (credentials.key, credentials.certificate)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def call(host: str, port: int, ca: bytes) -> bytes:
    with grpc.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials(ca)) as channel:
        return bytes(channel.unary_unary("/meadow/echo")(b"hello", timeout=10))


def test_grpc_accepts_the_server_by_its_address_and_by_nothing_else(secrets: FolderSecrets, tmp_path: Path) -> None:
    make_ca(secrets, "clinics", NOW)
    ca = secrets.get(CA_CERTIFICATE)
    other = FolderSecrets(tmp_path / "other")
    make_ca(other, "clinics", NOW)
    with serving(server_credentials(secrets, ["127.0.0.1"], NOW)) as port:
        assert call("127.0.0.1", port, ca) == b"hello"
        with pytest.raises(grpc.RpcError, match="Hostname Verification Check failed"):
            call("localhost", port, ca)
        with pytest.raises(grpc.RpcError, match="CERTIFICATE_VERIFY_FAILED"):
            call("127.0.0.1", port, other.get(CA_CERTIFICATE))
    with serving(server_credentials(secrets, ["localhost", "::1"], NOW)) as port:
        assert call("localhost", port, ca) == b"hello"


def test_grpc_refuses_an_expired_server(secrets: FolderSecrets) -> None:
    make_ca(secrets, "clinics", NOW - timedelta(days=30))
    old = server_credentials(secrets, ["127.0.0.1"], NOW - timedelta(days=20))
    with serving(old) as port, pytest.raises(grpc.RpcError, match="CERTIFICATE_VERIFY_FAILED"):
        call("127.0.0.1", port, secrets.get(CA_CERTIFICATE))


def test_openssl_accepts_the_chain_strictly(secrets: FolderSecrets, tmp_path: Path) -> None:
    make_ca(secrets, "clinics", NOW)
    made = server_credentials(secrets, ["10.0.0.4", "silo.example.org"], NOW)
    (tmp_path / "ca.pem").write_bytes(made.ca)
    (tmp_path / "server.pem").write_bytes(made.certificate)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "server.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ssl.create_default_context(cadata=made.ca.decode())
    names = x509.load_pem_x509_certificate(made.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["10.0.0.4", "silo.example.org"]


def test_the_server_s_certificate_is_short_lived_fresh_and_never_outlives_its_ca(secrets: FolderSecrets) -> None:
    make_ca(secrets, "clinics", NOW)
    one, two = (server_credentials(secrets, ["127.0.0.1"], NOW) for _ in range(2))
    assert one.key != two.key and one.expires - NOW == timedelta(days=14)
    late = NOW + timedelta(days=3645)
    assert server_credentials(secrets, ["127.0.0.1"], late).expires == NOW + timedelta(days=3650)
    assert secrets.list() == [CA_CERTIFICATE, CA_KEY]


def test_credentials_do_not_print_their_key(secrets: FolderSecrets) -> None:
    make_ca(secrets, "clinics", NOW)
    assert "PRIVATE" not in repr(server_credentials(secrets, ["127.0.0.1"], NOW))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "a b", "https://x", "x:80", "-x", "1.2.3", "x..y", "*.x", "x\n"])
def test_a_host_that_no_silo_can_dial_is_refused(secrets: FolderSecrets, host: str) -> None:
    make_ca(secrets, "clinics", NOW)
    with raises("MDW-708"):
        server_credentials(secrets, [host], NOW)


def test_a_ca_that_can_not_sign_is_refused(secrets: FolderSecrets, tmp_path: Path) -> None:
    with raises("MDW-700.*ca-certificate"):
        server_credentials(secrets, ["127.0.0.1"], NOW)
    make_ca(secrets, "clinics", NOW)
    with raises("MDW-705: The CA in .* expired on"):
        server_credentials(secrets, ["127.0.0.1"], NOW + timedelta(days=3651))
    with raises("MDW-705.*valid only from.*clock says"):
        server_credentials(secrets, ["127.0.0.1"], NOW - timedelta(days=1))
    good = secrets.get(CA_KEY)
    secrets.set(CA_KEY, b"garbage")
    with raises("MDW-702"):
        server_credentials(secrets, ["127.0.0.1"], NOW)
    other = FolderSecrets(tmp_path / "other")
    make_ca(other, "clinics", NOW)
    secrets.set(CA_KEY, other.get(CA_KEY))
    with raises("MDW-706.*not the key of"):
        server_credentials(secrets, ["127.0.0.1"], NOW)
    secrets.set(CA_KEY, good)
    secrets.delete(CA_KEY)
    with raises("MDW-700.*ca-key"):
        server_credentials(secrets, ["127.0.0.1"], NOW)


def test_a_silo_s_ca_must_be_the_certificate_of_a_ca(secrets: FolderSecrets) -> None:
    make_ca(secrets, "clinics", NOW)
    for wrong in (b"", b"garbage", secrets.get(CA_KEY)):
        with raises("MDW-706: my-ca.pem is not"):
            load_ca(wrong, "my-ca.pem", NOW)
    with raises("MDW-706.*not of a CA"):
        load_ca(server_credentials(secrets, ["127.0.0.1"], NOW).certificate, "my-ca.pem", NOW)


@pytest.mark.parametrize(
    ("life", "left", "said"),
    [
        (365, 31, None), (365, 30, "30 days"), (365, 8, "30 days"), (365, 7, "7 days"), (365, 1, "a day"),
        (365, 0, "expired on"), (14, 13.9, None), (14, 7.5, None), (15, 7, "7 days"), (14, 1, "a day"),
    ],
)  # fmt: skip
def test_expiry_is_announced_30_7_and_1_days_before(life: float, left: float, said: str | None) -> None:
    ends = NOW + timedelta(days=left)
    warning = expiry_warning("The key", ends - timedelta(days=life), ends, NOW)
    assert warning is None if said is None else warning is not None and said in warning


# ---- node keys


def test_a_node_key_is_p384_in_the_format_that_flower_and_openssh_read(secrets: FolderSecrets, tmp_path: Path) -> None:
    line = make_node_key(secrets, "north")
    key = load_node_key(secrets.get("node-north"), "x")
    assert public_line(key.public_key()) == line and line.startswith("ecdsa-sha2-nistp384 ")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", secrets.where("node-north")], capture_output=True, text=True)
    assert shown.stdout.split()[:2] == ["384", fingerprint(key.public_key())]
    with raises("MDW-707.*rotate"):
        make_node_key(secrets, "north")
    assert public_line(load_node_key(secrets.get("node-north"), "x").public_key()) == line


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
    return {name: (said, key.private_bytes(PEM, OPENSSH, PLAIN)) for name, (said, key) in made.items()}


@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
def test_a_node_key_of_another_type_is_refused(kind: str) -> None:
    said, secret = wrong_keys()[kind]
    with raises(f"MDW-703: node.key is {said}; a node key is ECDSA on P-384"):
        load_node_key(secret, "node.key")
    public = serialization.load_ssh_private_key(secret, None).public_key()
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    with raises(f"MDW-703: node.pub is {said}"):
        load_public_key(line, "node.pub")


def test_what_is_no_node_key_is_refused_in_one_line_without_its_content(tmp_path: Path) -> None:
    good, line = fresh_node_key()
    pkcs8 = ec.generate_private_key(ec.SECP384R1()).private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)
    for wrong in (b"", b"garbage", good[: len(good) // 2], pkcs8, line.encode()):
        with raises(r"MDW-702: node.key is not a private key") as caught:
            load_node_key(wrong, "node.key")
        assert "\n" not in str(caught.value) and "BEGIN" not in str(caught.value)
    path = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "a phrase", "-f", str(path)], check=True)
    with raises("MDW-702.*passphrase"):
        load_node_key(path.read_bytes(), "node.key")
    for bad in ("", "garbage", "ecdsa-sha2-nistp384 AAAA", good.decode()):
        with raises("MDW-702: node.pub is not a public key"):
            load_public_key(bad, "node.pub")


# ---- the admitted list


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
    return AdmittedKeys(FolderStore(tmp_path / "store"), clock)


def flower_header(line: str) -> bytes:
    key = load_public_key(line, "x")
    return key.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_an_admitted_key_is_known_by_the_header_that_flower_sends(admitted: AdmittedKeys) -> None:
    _, line = fresh_node_key()
    key = admitted.admit("north", line + " someone@somewhere")
    assert admitted.current() == {flower_header(line): "north"}
    assert key.line == line and key.expires - key.since == 365 * 86400


def test_adding_and_revoking_are_seen_by_a_running_server(tmp_path: Path, admitted: AdmittedKeys, clock: Clock) -> None:
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


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"silo": "north", "key": "x", "since": 1, "expires": 9e99}'])
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


def test_an_entry_under_another_key_s_name_admits_nobody(tmp_path: Path, admitted: AdmittedKeys) -> None:
    store = FolderStore(tmp_path / "store")
    admitted.admit("north", fresh_node_key()[1])
    (name,) = store.list("keys/admitted/")
    store.put_if_absent("keys/admitted/" + "0" * 64 + ".json", store.read(name))
    store.put_if_absent(name.replace("admitted", "revoked"), b"damaged too, and it still counts")
    assert AdmittedKeys(store, lambda: 0.0).current() == {}

"""A CA or certificate that can't be trusted is refused in one line; the others work in gRPC and OpenSSL."""

from __future__ import annotations

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

from azureml_jobs.identity.authority import (
    CA_CERTIFICATE,
    CA_KEY,
    ServerCredentials,
    load_ca,
    make_ca,
    server_credentials,
)
from azureml_jobs.identity.secret_store import FolderSecrets
from conf.errors import IdentityError

NOW = datetime.now(UTC).replace(microsecond=0)
PEM = serialization.Encoding.PEM


def raises(pattern: str) -> Any:
    return pytest.raises(IdentityError, match=pattern)


@pytest.fixture
def secrets(tmp_path: Path) -> FolderSecrets:
    return FolderSecrets(tmp_path / "keys")


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


def test_grpc_accepts_the_server_by_its_address_and_by_nothing_else(
    secrets: FolderSecrets, tmp_path: Path
) -> None:
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
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        "ca.pem",
        "server.pem",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ssl.create_default_context(cadata=made.ca.decode())
    names = x509.load_pem_x509_certificate(made.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["10.0.0.4", "silo.example.org"]


def test_the_server_s_certificate_is_short_lived_fresh_and_never_outlives_its_ca(
    secrets: FolderSecrets,
) -> None:
    make_ca(secrets, "clinics", NOW)
    one, two = (server_credentials(secrets, ["127.0.0.1"], NOW) for _ in range(2))
    assert one.key != two.key and one.expires - NOW == timedelta(days=14)
    late = NOW + timedelta(days=3645)
    assert server_credentials(secrets, ["127.0.0.1"], late).expires == NOW + timedelta(days=3650)
    assert secrets.list() == [CA_CERTIFICATE, CA_KEY]


def test_credentials_do_not_print_their_key(secrets: FolderSecrets) -> None:
    make_ca(secrets, "clinics", NOW)
    assert "PRIVATE" not in repr(server_credentials(secrets, ["127.0.0.1"], NOW))


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "a b", "https://x", "x:80", "-x", "1.2.3", "x..y", "*.x", "x\n"]
)
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

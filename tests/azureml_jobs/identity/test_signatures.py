"""A signature is one key's, for one purpose, of one statement; and only an orchestrator of the CA signs heads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from azureml_jobs.identity.authority import make_ca, server_credentials
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import (
    HEAD,
    LONGEST_SIGNATURE,
    RECEIPT,
    HeadSigner,
    authorities_in,
    head_key,
    is_signed,
    public_key_of,
    sign,
)
from conf.errors import CheckpointError

KEY = ec.generate_private_key(ec.SECP384R1())
PUBLIC = KEY.public_key()


@pytest.fixture
def secrets(tmp_path: Path) -> FolderSecrets:
    tmp_path.chmod(0o700)
    made = FolderSecrets(tmp_path / "secrets")
    make_ca(made, "test", datetime.now(UTC))
    return made


def test_a_signature_is_of_one_purpose_and_one_statement() -> None:
    signature = sign(KEY, HEAD, b"words")
    assert is_signed(PUBLIC, HEAD, b"words", signature)
    assert not is_signed(PUBLIC, RECEIPT, b"words", signature)
    assert not is_signed(PUBLIC, HEAD, b"other words", signature)
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert not is_signed(other, HEAD, b"words", signature)
    assert len(signature) < LONGEST_SIGNATURE


@pytest.mark.parametrize("signature", ["", "é", "====", "AAAA", "A" * 100_000, " "])
def test_what_is_no_signature_is_wrong_and_no_error(signature: str) -> None:
    assert not is_signed(PUBLIC, HEAD, b"words", signature)


def pem(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def test_only_a_key_of_the_silos_type_is_one() -> None:
    assert public_key_of(pem(PUBLIC)) == PUBLIC
    assert public_key_of(pem(ec.generate_private_key(ec.SECP256R1()).public_key())) is None
    assert public_key_of(pem(rsa.generate_private_key(65537, 2048).public_key())) is None
    assert public_key_of("") is None and public_key_of("x" * 10_000_000) is None


def test_an_orchestrator_of_the_ca_signs_heads(secrets: FolderSecrets) -> None:
    signer = HeadSigner.of(server_credentials(secrets, ["127.0.0.1"], datetime.now(UTC)))
    authorities = authorities_in(secrets.get("ca-certificate"))
    key = head_key(signer.certificate, authorities, "it")
    assert is_signed(key, HEAD, b"words", signer.sign(b"words"))
    assert "PRIVATE" not in repr(signer)


def test_an_orchestrator_of_another_ca_does_not(secrets: FolderSecrets, tmp_path: Path) -> None:
    other = FolderSecrets(tmp_path / "other")
    make_ca(other, "test", datetime.now(UTC))
    signer = HeadSigner.of(server_credentials(other, ["127.0.0.1"], datetime.now(UTC)))
    authorities = authorities_in(secrets.get("ca-certificate"))
    with pytest.raises(CheckpointError, match=r"MDW-524.*of another CA"):
        head_key(signer.certificate, authorities, "it")
    with pytest.raises(CheckpointError, match="MDW-524"):
        head_key(signer.certificate, [], "it")


def test_a_silo_s_certificate_of_the_same_ca_does_not(secrets: FolderSecrets) -> None:
    """Or else every admitted silo could sign a head."""
    ca = authorities_in(secrets.get("ca-certificate"))[0]
    private = serialization.load_pem_private_key(secrets.get("ca-key"), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    client = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "silo-1")]))
        .issuer_name(ca.subject)
        .public_key(PUBLIC)
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(private, hashes.SHA384())
    )
    text = client.public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(CheckpointError, match=r"MDW-524.*not an orchestrator's"):
        head_key(text, [ca], "it")


@pytest.mark.parametrize("text", ["", "words", "x" * 1_000_000])
def test_what_is_no_certificate_does_not(secrets: FolderSecrets, text: str) -> None:
    with pytest.raises(CheckpointError, match="MDW-524"):
        head_key(text, authorities_in(secrets.get("ca-certificate")), "it")
    assert authorities_in(text.encode()) == []

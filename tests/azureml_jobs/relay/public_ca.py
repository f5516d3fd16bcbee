"""A CA of the outside world for tests, and certificates by it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from azureml_jobs.identity.authority import key_usage


@dataclass(frozen=True)
class PublicCa:
    """A CA that machines trust, as a folder of PEM files."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @staticmethod
    def made(folder: Path, name: str = "public") -> PublicCa:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} CA")
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        made = PublicCa(folder, key, certificate)
        made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(folder / "public-ca.key", key)
        return made

    @staticmethod
    def loaded(folder: Path) -> PublicCa:
        """The CA that another process has made in a folder."""
        key = serialization.load_pem_private_key((folder / "public-ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pem = (folder / "public-ca.pem").read_bytes()
        return PublicCa(folder, key, x509.load_pem_x509_certificate(pem))

    @property
    def file(self) -> Path:
        return self.folder / "public-ca.pem"

    def certify(self, name: str, hosts: Sequence[str]) -> tuple[Path, Path]:
        """A certificate and its key for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(hosts[0]), self.certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), False)
            .add_extension(key_usage(certificates=False), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        pem = self.folder / f"{name}.pem"
        private = self.folder / f"{name}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(private, key)
        return pem, private


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
    )

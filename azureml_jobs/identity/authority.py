"""The federation's CA, and the certificate by which silos recognise the orchestrator.

Who may speak to whom is decided in these modules:

    authority.py      the CA and the orchestrator's certificate
    node_key.py       a silo's key, by which the orchestrator recognises it
    signed_admission.py  the client certificate over that key: the CA's word that it may connect
    admitted_keys.py  which of these keys may connect
    secret_store.py   where private parts are kept; key_vault.py keeps them in a Key Vault
    expiry.py         how long keys and certificates are valid

Private parts are in a `SecretStore` (a folder here, a Key Vault on Azure) and nowhere else; the
orchestrator's own key exists only in memory. A silo makes its node key itself and hands out the
public half.

    MDW-702 not readable      MDW-706 not the expected certificate
    MDW-707 exists already    MDW-708 not an address
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from azureml_jobs.identity.expiry import Span, check_dates
from azureml_jobs.identity.secret_store import SecretStore, checked_name
from conf.errors import IdentityError

CA_KEY: Final = "ca-key"
CA_CERTIFICATE: Final = "ca-certificate"
CA_BEFORE: Final = "ca-certificate-before"
"""The CA before this one, as long as both are trusted (`identity.succession`)."""
NO_CA: Final = b"none"
"""In its place afterwards: a vault keeps the name of what was deleted."""
CA_DAYS: Final = 3650
SERVER_DAYS: Final = 14
"""An orchestrator makes a new certificate at each start; it lasts longer than the longest run."""
SKEW: Final = timedelta(hours=1)
"""Certificates begin this long ago, for silos whose clocks are behind."""

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(\.{_LABEL}){{0,9}}")


@dataclass(frozen=True)
class ServerCredentials:
    """What the orchestrator's port needs, in PEM: the CA's certificate, its own, its key."""

    ca: bytes
    certificate: bytes
    key: bytes
    expires: datetime

    def __repr__(self) -> str:
        return f"ServerCredentials(expires={self.expires:%Y-%m-%d})"

    def spans(self) -> list[Span]:
        """Return how long the two certificates are valid."""
        ca = span_of(
            "The federation's CA",
            x509.load_pem_x509_certificate(self.ca),
            "Make another, and hand its certificate to every silo (docs/keys.md).",
        )
        server = span_of(
            "The orchestrator's certificate",
            x509.load_pem_x509_certificate(self.certificate),
            "It gets a new one when it is started again.",
        )
        return [ca, server]


def span_of(what: str, certificate: x509.Certificate, hint: str) -> Span:
    """Return how long a certificate is valid."""
    return Span(what, certificate.not_valid_before_utc, certificate.not_valid_after_utc, hint)


def make_ca(secrets: SecretStore, name: str, now: datetime) -> x509.Certificate:
    """Make and store the CA of a federation, for ten years.

    Raises IdentityError MDW-707 where there is one already.
    """
    names = secrets.list()
    if CA_KEY in names or CA_CERTIFICATE in names:
        hint = "Every silo trusts that one: to replace it, meadow keys rotate-ca."
        raise IdentityError("MDW-707", f"There is a CA in {secrets.where(CA_KEY)}.", hint)
    return put_ca(secrets, name, now)


def put_ca(secrets: SecretStore, name: str, now: datetime) -> x509.Certificate:
    """Make a CA and store it, over the one that is there."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"Meadow CA {checked_name(name)}"[:64])]
    )
    usage = key_usage(certificates=True)
    builder = _builder(subject, subject, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA384())
    secrets.set(CA_KEY, _pkcs8(key))
    secrets.set(CA_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate


def server_credentials(
    secrets: SecretStore, hosts: Sequence[str], now: datetime, days: int = SERVER_DAYS
) -> ServerCredentials:
    """Return a new key and certificate for the hosts (IP addresses or DNS names) that silos dial.

    The CA's key is in memory only while this runs. Raises IdentityError for a missing, unreadable
    or expired CA, or a host that no silo can dial.
    """
    names = [_subject_name(host) for host in hosts]
    certificate = load_ca(secrets.get(CA_CERTIFICATE), secrets.where(CA_CERTIFICATE), now)
    authority = load_ca_key(secrets, certificate)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Meadow orchestrator")])
    builder = _builder(
        subject, certificate.subject, key.public_key(), now, days, certificate.not_valid_after_utc
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(key_usage(certificates=False), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    builder = builder.add_extension(issuer, critical=False)
    server_certificate = builder.sign(authority, hashes.SHA384())
    ca = certificate.public_bytes(serialization.Encoding.PEM)
    # Silos that were admitted under it may still connect.
    ca += ca_before(secrets)
    return ServerCredentials(
        ca=ca,
        certificate=server_certificate.public_bytes(serialization.Encoding.PEM),
        key=_pkcs8(key),
        expires=server_certificate.not_valid_after_utc,
    )


def relayed_name(federation: str) -> str:
    """Return the name in an orchestrator's certificate where silos come by a relay.

    It is nobody's address: whatever the way, a silo compares it inside its own TLS.
    """
    return f"{hashlib.sha256(federation.encode()).hexdigest()[:32]}.orchestrator.meadow"


def ca_before(secrets: SecretStore) -> bytes:
    """Return the certificate of the CA before this one while both are trusted; empty otherwise."""
    kept = secrets.get(CA_BEFORE) if CA_BEFORE in secrets.list() else b""
    return b"" if kept == NO_CA else kept


def load_ca(pem: bytes, where: str, now: datetime) -> x509.Certificate:
    """Return the CA's certificate that a silo trusts, checked.

    Raises IdentityError MDW-705 or 706.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        hint = "It should be the PEM file that `meadow keys init` wrote."
        raise IdentityError("MDW-706", f"{where} is not the certificate of a CA.", hint) from None
    if not constraints.ca:
        raise IdentityError(
            "MDW-706",
            f"{where} is a certificate, but not of a CA.",
            "Use the CA's, not the server's.",
        )
    check_dates(
        f"The CA in {where}", certificate.not_valid_before_utc, certificate.not_valid_after_utc, now
    )
    return certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
    at_most: datetime | None = None,
) -> x509.CertificateBuilder:
    ends = now + timedelta(days=days)
    if at_most is not None:
        ends = min(ends, at_most)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def key_usage(certificates: bool) -> x509.KeyUsage:
    """Return what a key may be used for: to sign `certificates`, or else the handshakes of TLS."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def load_ca_key(secrets: SecretStore, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    """Return the private key of the CA with this certificate; raises IdentityError MDW-702 or 706.

    The caller lets go of it as soon as it has signed.
    """
    where = secrets.where(CA_KEY)
    try:
        key = serialization.load_pem_private_key(secrets.get(CA_KEY), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(
            "MDW-702", f"{where} is not a private key that can be read.", "Restore the CA."
        ) from None
    belongs_to_ca = key.public_key() == certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not belongs_to_ca:
        hint = f"Restore the pair {CA_KEY} and {CA_CERTIFICATE}."
        raise IdentityError("MDW-706", f"{where} is not the key of the CA's certificate.", hint)
    return key


def _subject_name(host: str) -> x509.GeneralName:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if not _DNS.fullmatch(host) or host.replace(".", "").isdigit():
            hint = "Give the IP address or DNS name that silos dial, without scheme and port."
            raise IdentityError("MDW-708", f"{host[:80]!r} is not a host.", hint) from None
        return x509.DNSName(host)
    if address.is_unspecified:
        hint = "A server may listen on all addresses, but silos dial one: give that one."
        raise IdentityError("MDW-708", f"Nobody can dial {host}.", hint)
    return x509.IPAddress(address)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

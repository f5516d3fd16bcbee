"""The admission of a silo: a client certificate that the CA signs over the silo's public key.

The certificate is the admission. Its subject is the key's fingerprint; what the CA's owner decided
(federation, silo, until when, further limits) stands in an extension of it, as JSON. So nobody who
can write the orchestrator's store or the rendezvous can admit a key, and nothing of it is secret.

The certificate itself outlives what it says by `TOLD`: a silo whose admission has expired still
gets through the handshake, and is told so. Whether a key may connect now is decided at each call,
by the list of admitted keys.

    MDW-716 not an admission, or not of this federation's CA
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from azureml_jobs.identity.authority import (
    CA_CERTIFICATE,
    SKEW,
    key_usage,
    load_ca,
    load_ca_key,
)
from azureml_jobs.identity.node_key import fingerprint, load_public_key, public_line
from azureml_jobs.identity.secret_store import SecretStore, checked_name
from conf.errors import CheckpointError, IdentityError
from conf.versions import Format

FORMAT: Final = Format("admission", 1)
TERMS: Final = x509.ObjectIdentifier("2.25.148190306412483899886398285392519094698")
"""The extension that holds the terms: an identifier made from a UUID, as ITU-T X.667 allows."""
MOST_BYTES: Final = 8192
"""Of a certificate in PEM; one with limits for every key of a task has about 1,500."""
TOLD: Final = timedelta(days=365)
"""How long a silo whose admission has expired can still connect, to be told so."""
MOST_LIMITS: Final = 32
RENEWABLE_UNTIL: Final = "renewable_until"
"""The name of a limit: until when (seconds since 1970) the orchestrator may renew an admission
(`identity.renewal`). The certificate lasts as long.
"""


@dataclass(frozen=True)
class Admission:
    """What the CA's owner has signed: which key is which silo of which federation, and until when.

    Times are in seconds since 1970. `limits` are further ceilings for this silo, by name, such as
    `examples_at_most`.
    """

    federation: str
    silo: str
    line: str
    """The public key in OpenSSH's format."""
    since: float
    expires: float
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return the key's name: what `ssh-keygen -l` prints."""
        return fingerprint(load_public_key(self.line, f"the admitted key of {self.silo}"))

    def terms(self) -> bytes:
        """Return what stands in the certificate's extension."""
        values: dict[str, Any] = {
            "federation": self.federation,
            "silo": self.silo,
            "key": self.fingerprint,
            "since": self.since,
            "expires": self.expires,
            "limits": dict(sorted(self.limits.items())),
        }
        return json.dumps(FORMAT.stamp | values).encode()


@dataclass(frozen=True)
class AdmissionAuthority:
    """Signs a federation's admissions, with the CA's key in a store of secrets.

    The store is opened when something is signed, and the key is in memory only then.
    """

    secrets: SecretStore
    federation: str

    def certificate(self) -> bytes:
        """Return the certificate of the CA, in PEM."""
        return self.secrets.get(CA_CERTIFICATE)

    def sign(self, admission: Admission) -> str:
        """Return the client certificate of a silo, in PEM.

        Raises IdentityError for a missing, unreadable or expired CA, or a key that can't be read.
        """
        where = self.secrets.where(CA_CERTIFICATE)
        begins = datetime.fromtimestamp(admission.since, UTC)
        ca = load_ca(self.secrets.get(CA_CERTIFICATE), where, begins)
        key = load_ca_key(self.secrets, ca)
        return _certificate(admission, ca, key)


def _certificate(
    admission: Admission, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> str:
    public = load_public_key(admission.line, f"the key of {admission.silo}")
    begins = datetime.fromtimestamp(admission.since, UTC) - SKEW
    last = max(admission.expires, admission.limits.get(RENEWABLE_UNTIL, 0.0))
    ends = datetime.fromtimestamp(last, UTC) + TOLD
    name = x509.NameAttribute(NameOID.COMMON_NAME, admission.fingerprint)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    terms = x509.UnrecognizedExtension(TERMS, admission.terms())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([name]))
        .issuer_name(ca.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(begins, ca.not_valid_before_utc))
        .not_valid_after(min(ends, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(certificates=False), critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(terms, critical=False)
    )
    return builder.sign(ca_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM).decode()


def read_admission(certificate: bytes | str, where: str) -> Admission:
    """Return what a client certificate says, whoever has signed it.

    Raises IdentityError MDW-716 for anything else than an admission.
    """
    return _admission(_parsed(certificate, where), where)


def check_admission(certificate: bytes | str, authorities: bytes, where: str) -> Admission:
    """Return what a client certificate says, once one of the CAs (PEM) is seen to have signed it.

    Raises IdentityError MDW-716.
    """
    parsed = _parsed(certificate, where)
    admission = _admission(parsed, where)
    for authority in x509.load_pem_x509_certificates(authorities):
        try:
            parsed.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return admission
    raise _not_an_admission(where, "this federation's CA did not sign it")


def certified_key(certificate: bytes) -> ec.EllipticCurvePublicKey | None:
    """Return the public key in a certificate that a handshake has checked; None for another kind."""
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def _parsed(certificate: bytes | str, where: str) -> x509.Certificate:
    text = certificate.encode() if isinstance(certificate, str) else certificate
    if len(text) > MOST_BYTES:
        raise _not_an_admission(where, f"it has {len(text)} bytes")
    try:
        return x509.load_pem_x509_certificate(text)
    except (ValueError, UnsupportedAlgorithm):
        raise _not_an_admission(where, "it is not a certificate in PEM") from None


def _admission(certificate: x509.Certificate, where: str) -> Admission:
    try:
        terms = certificate.extensions.get_extension_for_oid(TERMS).value
        key = certificate.public_key()
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        raise _not_an_admission(where, "it has no terms of an admission") from None
    if not isinstance(terms, x509.UnrecognizedExtension):
        raise _not_an_admission(where, "it has no terms of an admission")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _not_an_admission(where, "its key is not on an elliptic curve")
    try:
        raw = FORMAT.loads(terms.value, where)
        limits = {str(name): float(value) for name, value in raw["limits"].items()}
        admission = Admission(
            checked_name(str(raw["federation"])),
            checked_name(str(raw["silo"])),
            public_line(key),
            float(raw["since"]),
            float(raw["expires"]),
            limits,
        )
        same_key = raw["key"] == admission.fingerprint
    except CheckpointError as error:
        if error.code == "MDW-505":
            raise
        raise _not_an_admission(where, "its terms can't be read") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise _not_an_admission(where, "its terms can't be read") from None
    if not same_key:
        raise _not_an_admission(where, "its terms name another key")
    if len(limits) > MOST_LIMITS:
        raise _not_an_admission(where, f"it has {len(limits)} limits")
    return admission


def _not_an_admission(where: str, why: str) -> IdentityError:
    hint = "Ask the orchestrator's owner for the file that `meadow keys admit` wrote."
    return IdentityError("MDW-716", f"{where} is not an admission of this federation: {why}.", hint)

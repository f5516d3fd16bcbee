"""Signatures of statements: the orchestrator's of its ledger's head, a silo's of its receipts.

Each is ECDSA with SHA-384 over a purpose and the statement, so that what was signed for one purpose
is valid for no other: not a head as a receipt, and none of them as a call or a handshake. A
handshake of TLS signs 32 bytes that nobody can choose near its beginning; no statement has them.

    MDW-524 a certificate that is not an orchestrator's of this CA
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from azureml_jobs.identity.authority import ServerCredentials
from conf.errors import CheckpointError

HEAD: Final = "ledger head"
"""The purpose of the orchestrator's signature of an anchor."""
RECEIPT: Final = "ledger receipt"
"""The purpose of a silo's signature of what it was told and what it sent."""
LONGEST_SIGNATURE: Final = 200
"""Characters; one by a key on P-384 has at most 140."""
LONGEST_KEY: Final = 1024
"""Characters of a public key in PEM; one on P-384 has 215."""
LONGEST_CERTIFICATE: Final = 8192
"""Characters of a certificate in PEM; an orchestrator's has about 1,000 for each few names."""


def sign(key: ec.EllipticCurvePrivateKey, purpose: str, statement: bytes) -> str:
    """Return the signature of a statement, as base64."""
    signature = key.sign(_signed(purpose, statement), ec.ECDSA(hashes.SHA384()))
    return base64.b64encode(signature).decode()


def is_signed(
    public: ec.EllipticCurvePublicKey, purpose: str, statement: bytes, signature: str
) -> bool:
    """Say whether a signature is that key's, for this purpose, of this statement."""
    if len(signature) > LONGEST_SIGNATURE:
        return False
    try:
        raw = base64.b64decode(signature, validate=True)
        public.verify(raw, _signed(purpose, statement), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _signed(purpose: str, statement: bytes) -> bytes:
    # No purpose holds a zero byte, so no two pairs of purpose and statement give the same bytes.
    return b"\0".join([b"meadow", purpose.encode(), statement])


@lru_cache(maxsize=1024)
def public_key_of(pem: str) -> ec.EllipticCurvePublicKey | None:
    """Return a public key on P-384 from its PEM text; None for anything else."""
    if len(pem) > LONGEST_KEY:
        return None
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return None
    return key


@dataclass(frozen=True)
class HeadSigner:
    """Who signs the head of a ledger: the orchestrator's key, and the certificates that vouch for
    it, in PEM.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: str
    ca: str

    @staticmethod
    def of(credentials: ServerCredentials) -> HeadSigner:
        """Return the signer with the key that an orchestrator's port shows to its silos."""
        key = serialization.load_pem_private_key(credentials.key, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return HeadSigner(key, credentials.certificate.decode(), credentials.ca.decode())

    def __repr__(self) -> str:
        return "HeadSigner()"

    def sign(self, statement: bytes) -> str:
        """Return the signature of an anchor's statement."""
        return sign(self.key, HEAD, statement)


def head_key(
    certificate: str, authorities: Sequence[x509.Certificate], where: str
) -> ec.EllipticCurvePublicKey:
    """Return the key of an orchestrator's certificate, once one of these CAs vouches for it.

    Raises CheckpointError MDW-524 for any other certificate, such as a silo's of the same CA: that
    may not sign heads. Dates are left to who knows when something was signed.
    """
    hint = "Compare the CA's certificate with the one of the orchestrator's owner."
    if len(certificate) > LONGEST_CERTIFICATE:
        raise CheckpointError("MDW-524", f"{where} is too long to be a certificate.", hint)
    try:
        loaded = x509.load_pem_x509_certificate(certificate.encode())
        uses = loaded.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        key = loaded.public_key()
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        raise CheckpointError("MDW-524", f"{where} is not an orchestrator's.", hint) from None
    if ExtendedKeyUsageOID.SERVER_AUTH not in uses or not isinstance(
        key, ec.EllipticCurvePublicKey
    ):
        raise CheckpointError("MDW-524", f"{where} is not an orchestrator's.", hint)
    if not any(_is_issued_by(loaded, authority) for authority in authorities):
        raise CheckpointError("MDW-524", f"{where} is of another CA.", hint)
    return key


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def authorities_in(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in a PEM text, which may hold several CAs; none where it can't be
    read.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm):
        return []

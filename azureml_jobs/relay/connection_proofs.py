"""What is said at the relay's door: its challenge, and the answer that a key has signed.

The relay sends a challenge as the first frame of each connection. The orchestrator answers with the
key of its certificate, a silo with the key of its admission; each signs for this relay (by the name
that its own owner wrote down), this federation, this server, this role and this stream. So what one
relay was told is of no use at another, and what a silo has signed opens nothing but its own stream.

The same proof goes on to the orchestrator, which checks it again: it believes no relay.

    MDW-690 something that is not of the relay's protocol    MDW-765 a proof that does not count
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from azureml_jobs.identity.node_key import fingerprint
from azureml_jobs.identity.signatures import (
    LONGEST_CERTIFICATE,
    LONGEST_SIGNATURE,
    head_key,
    is_signed,
    sign,
)
from azureml_jobs.identity.signed_admission import certified_key, check_admission
from conf.errors import IdentityError, MeadowError, WireError

PURPOSE: Final = "relay connection"
"""Of the signature, so that nothing else that these keys sign opens a connection."""
PROTOCOL: Final = 1
CONTROL: Final = "control"
ACCEPT: Final = "accept"
SILO: Final = "silo"
"""Roles: the orchestrator's lasting connection, its one for a stream, and a silo's."""
NONCE_BYTES: Final = 32
PROOF_SECONDS: Final = 30
"""For how long a challenge is good, by the relay's own clock."""
MOST_BYTES: Final = 16 * 1024
"""Of a frame before a connection is let in, and of one of the control channel."""

_PEM = Encoding.PEM
_NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")
_STREAM = re.compile(r"[0-9a-f]{32}")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,260}")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""A federation's, or a server's."""


@dataclass(frozen=True)
class Claim:
    """As whom somebody connects: of which federation and server, in which role.

    `stream` is the one that an orchestrator fetches (role `accept`), empty for the others.
    """

    federation: str
    server: str
    role: str
    stream: str = ""


@dataclass(frozen=True)
class Challenge:
    """What a relay asks to be signed: its name, a number drawn for this connection, its end (s since
    1970, by the relay's clock).
    """

    relay: str
    nonce: str
    expires: int

    @staticmethod
    def drawn(relay: str, now: float) -> Challenge:
        """Return a new one."""
        return Challenge(relay, secrets.token_hex(NONCE_BYTES), int(now) + PROOF_SECONDS)

    def to_text(self) -> str:
        """Return the frame that is sent."""
        return json.dumps({"version": PROTOCOL, **asdict(self)})

    @staticmethod
    def from_text(frame: object) -> Challenge:
        """Return the challenge in a frame; raises WireError MDW-690."""
        raw = plain_frame(frame)
        version = raw.get("version")
        if version != PROTOCOL:
            raise not_of_the_protocol(f"version {str(version)[:20]!r}")
        return Challenge(
            checked_text(raw, "relay", _HOST),
            checked_text(raw, "nonce", _NONCE),
            checked_number(raw, "expires"),
        )

    def statement(self, claim: Claim) -> bytes:
        """Return what is signed: each part behind its length, so that no two give the same bytes."""
        parts = [
            str(PROTOCOL),
            self.relay,
            self.nonce,
            str(self.expires),
            claim.federation,
            claim.server,
            claim.role,
            claim.stream,
        ]
        encoded = [part.encode() for part in parts]
        return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


@dataclass(frozen=True)
class Signer:
    """Whose key answers: an orchestrator's or a silo's, with the certificate (PEM) over it."""

    key: ec.EllipticCurvePrivateKey
    certificate: str

    def __repr__(self) -> str:
        return "Signer()"

    def proof(self, challenge: Challenge, claim: Claim) -> Proof:
        """Return the answer to a challenge."""
        return Proof(self.certificate, sign(self.key, PURPOSE, challenge.statement(claim)))


@dataclass(frozen=True)
class Proof:
    """A certificate (PEM) and its key's signature of challenge and claim."""

    certificate: str
    signature: str

    def to_text(self) -> str:
        """Return the frame that is sent."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(frame: object) -> Proof:
        """Return the proof in a frame; raises WireError MDW-690."""
        return Proof.from_plain(plain_frame(frame))

    @staticmethod
    def from_plain(raw: dict[str, Any]) -> Proof:
        """Return the proof that plain values hold; raises WireError MDW-690."""
        certificate = raw.get("certificate")
        signature = raw.get("signature")
        if not isinstance(certificate, str) or not 0 < len(certificate) <= LONGEST_CERTIFICATE:
            raise not_of_the_protocol("no certificate")
        if not isinstance(signature, str) or not 0 < len(signature) <= LONGEST_SIGNATURE:
            raise not_of_the_protocol("no signature")
        return Proof(certificate, signature)

    def checked(
        self,
        challenge: Challenge,
        claim: Claim,
        authorities: Sequence[x509.Certificate],
        now: datetime,
    ) -> str:
        """Return the fingerprint of the key, once one of these CAs vouches for it in this role.

        Raises IdentityError MDW-765.
        """
        public = (
            _silo_key(self.certificate, claim, authorities)
            if claim.role == SILO
            else _orchestrator_key(self.certificate, authorities)
        )
        loaded = x509.load_pem_x509_certificate(self.certificate.encode())
        if not loaded.not_valid_before_utc <= now <= loaded.not_valid_after_utc:
            raise _not_proven("its certificate is not valid now")
        if not is_signed(public, PURPOSE, challenge.statement(claim), self.signature):
            raise _not_proven("its signature is not of this challenge, relay, federation and role")
        return fingerprint(public)


def _orchestrator_key(
    certificate: str, authorities: Sequence[x509.Certificate]
) -> ec.EllipticCurvePublicKey:
    try:
        return head_key(certificate, authorities, "its certificate")
    except MeadowError as error:
        raise _not_proven(error.message.rstrip(".")) from None


def _silo_key(
    certificate: str, claim: Claim, authorities: Sequence[x509.Certificate]
) -> ec.EllipticCurvePublicKey:
    pem = b"".join(one.public_bytes(_PEM) for one in authorities)
    try:
        admission = check_admission(certificate, pem, "its certificate")
    except (MeadowError, ValueError) as error:
        why = error.message if isinstance(error, MeadowError) else "no CA"
        raise _not_proven(why.rstrip(".")) from None
    if admission.federation != claim.federation:
        raise _not_proven(f"it is admitted to the federation {admission.federation!r}")
    key = certified_key(certificate.encode())
    assert key is not None
    return key


def checked_stream(stream: str) -> str:
    """Return the name of a stream if it has the form of one; raises WireError MDW-690."""
    if not _STREAM.fullmatch(stream):
        raise not_of_the_protocol("the name of a stream")
    return stream


def plain_frame(frame: object) -> dict[str, Any]:
    """Return the JSON object in a text frame; raises WireError MDW-690."""
    if not isinstance(frame, str) or len(frame) > MOST_BYTES:
        raise not_of_the_protocol("a frame that is no short text")
    try:
        raw = json.loads(frame)
    except (ValueError, RecursionError):
        raise not_of_the_protocol("a text that is not JSON") from None
    if not isinstance(raw, dict):
        raise not_of_the_protocol("JSON that is no object")
    return raw


def checked_text(raw: dict[str, Any], name: str, form: re.Pattern[str]) -> str:
    """Return a text of a frame; raises WireError MDW-690."""
    value = raw.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise not_of_the_protocol(f"no {name}")
    return value


def checked_number(raw: dict[str, Any], name: str) -> int:
    """Return a whole number of a frame, not negative; raises WireError MDW-690."""
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise not_of_the_protocol(f"no {name}")
    return value


def not_of_the_protocol(what: str) -> WireError:
    """Return the error for a frame that nobody who speaks this protocol sends."""
    hint = "Use the same release on both sides, and the relay's own address."
    return WireError("MDW-690", f"Not of the relay's protocol: {what}.", hint)


def _not_proven(why: str) -> IdentityError:
    hint = "Compare the federation's CA, and its name, with those of the relay's configuration."
    return IdentityError("MDW-765", f"The relay lets nobody in by this proof: {why}.", hint)

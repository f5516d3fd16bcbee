"""What a silo's node signs with each call: for whom it is meant, and what it says.

A signature of the time alone is good for whoever gets hold of it: the server of one federation
could show it to the server of another. So each names the challenge that this server gave to this
key, the server's certificate, the federation, the method and the digest of the body, and a number
that counts once. No clock plays a part; the time that is signed beside them only tells the server
whose clock is wrong.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

CALL: Final = "call"
"""The purpose of a signature of a call (`identity.signatures`)."""
CHALLENGE_BYTES: Final = 16
LARGEST_NUMBER: Final = 2**62


@dataclass(frozen=True)
class CallStatement:
    """What is signed with one call.

    `server` and `body` are SHA-256 digests: of the server's certificate in DER, and of the message
    as it travels; of one that brings parts of objects, of its head, which names them by theirs.
    `number` counts the calls that answer one challenge. `time` is the node's clock
    in seconds since 1970, as text.
    """

    federation: str
    server: bytes
    challenge: bytes
    number: int
    method: str
    time: str
    body: bytes

    def to_bytes(self) -> bytes:
        """Return the bytes that are signed: each part behind its length, so that no two statements
        give the same.
        """
        parts = [
            self.federation.encode(),
            self.server,
            self.challenge,
            str(self.number).encode(),
            self.method.encode(),
            self.time.encode(),
            self.body,
        ]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def body_digest(body: bytes | memoryview) -> bytes:
    """Return the digest of a message as it travels, or of as much of it as is signed
    (`strategies.wire.transfer_calls.signed_bytes`).
    """
    return hashlib.sha256(body).digest()


def server_digest(certificate: bytes) -> bytes:
    """Return the digest of a server's certificate (PEM); raises ValueError for another text."""
    der = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    return hashlib.sha256(der).digest()

"""Signs each call of a silo's node for one server, one federation, one method and one body.

The first call of a connection is refused with a challenge, and made again; so is one after the
server was started again. The server's certificate comes with the challenge: the silo's own CA has
to vouch for it, as for the one of the handshake, before anything is signed for it.

    MDW-762 a challenge of a server that the CA does not vouch for
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.call_signature import (
    CALL,
    CHALLENGE_BYTES,
    CallStatement,
    body_digest,
    server_digest,
)
from azureml_jobs.identity.signatures import authorities_in, head_key, sign
from conf.errors import CheckpointError, IdentityError
from strategies.wire.fleet_calls import as_bytes
from strategies.wire.headers import (
    CALL_CHALLENGE,
    CALL_NUMBER,
    CALL_SERVER,
    CALL_SIGNATURE,
    CALL_TIME,
    NEEDS_CHALLENGE,
)
from strategies.wire.transfer_calls import signed_bytes

log = logging.getLogger(__name__)

TRIES: Final = 3
"""Two are enough, unless the server is started again in between."""
CLOCK_SECONDS: Final = 30.0
"""A difference of clocks that is named in the log; nothing else depends on it."""


def now() -> float:
    """Return the time that is told with a call, in seconds since 1970 by this machine's clock."""
    return time.time()


class CallSigner(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Adds to each call the node's signature of it; safe to use from any thread."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, federation: str, authority: bytes) -> None:
        """`federation` is the one that the CA admitted the key to; `authority` the CA's PEM."""
        self._key = key
        self._federation = federation
        self._authorities = authorities_in(authority)
        self._lock = threading.Lock()
        self._challenge = b""
        self._server = b""
        self._number = 0
        self._told_clock = False

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> grpc.Call:
        """Sign one call and make it; once more where the server gives a challenge in its place."""
        # Serialised once: what is signed is what is sent.
        body = as_bytes(request)
        digest = body_digest(signed_bytes(client_call_details.method, body))
        given = tuple(client_call_details.metadata or ())
        call = None
        for _ in range(TRIES):
            signed = self._headers(client_call_details.method, digest)
            details = client_call_details._replace(metadata=[*given, *signed])
            call = continuation(details, body)
            if not self._learns(call):
                break
        return call

    def _headers(self, method: str, digest: bytes) -> Sequence[tuple[str, str | bytes]]:
        """Return the headers of a signed call; none before there is a challenge."""
        with self._lock:
            if not self._challenge:
                return ()
            self._number += 1
            statement = CallStatement(
                self._federation,
                self._server,
                self._challenge,
                self._number,
                method,
                f"{now():.0f}",
                digest,
            )
        signature = sign(self._key, CALL, statement.to_bytes())
        return (
            (CALL_CHALLENGE, statement.challenge),
            (CALL_NUMBER, str(statement.number)),
            (CALL_TIME, statement.time),
            (CALL_SIGNATURE, signature),
        )

    def _learns(self, call: Any) -> bool:
        """Take the challenge out of a refusal; return whether there was one.

        Raises IdentityError MDW-762 for one of a server that the CA does not vouch for.
        """
        if call.code() is not grpc.StatusCode.UNAUTHENTICATED:
            return False
        if not str(call.details()).startswith(NEEDS_CHALLENGE):
            return False
        told = dict(call.trailing_metadata() or ())
        challenge = told.get(CALL_CHALLENGE)
        certificate = told.get(CALL_SERVER)
        if not isinstance(challenge, bytes) or len(challenge) != CHALLENGE_BYTES:
            return False
        if not isinstance(certificate, bytes):
            return False
        digest = self._checked_server(certificate)
        self._compare_clocks(told.get(CALL_TIME))
        with self._lock:
            if challenge != self._challenge:
                self._challenge = challenge
                self._server = digest
                self._number = 0
        return True

    def _checked_server(self, certificate: bytes) -> bytes:
        try:
            head_key(certificate.decode("ascii"), self._authorities, "the server's certificate")
            return server_digest(certificate)
        except (CheckpointError, ValueError) as error:
            why = error.message if isinstance(error, CheckpointError) else "it can't be read"
            what = (
                f"A server asks for signatures with a certificate that is not to be trusted: {why}"
            )
            hint = "Compare the CA's certificate with the one of the orchestrator's owner."
            raise IdentityError("MDW-762", what, hint) from None

    def _compare_clocks(self, theirs: object) -> None:
        """Say once in the log that this machine's clock is not the orchestrator's."""
        if self._told_clock or not isinstance(theirs, str):
            return
        with contextlib.suppress(ValueError):
            ahead = now() - float(theirs)
            if abs(ahead) > CLOCK_SECONDS:
                self._told_clock = True
                direction = "ahead of" if ahead > 0 else "behind"
                log.warning(
                    "MDW-763: this machine's clock is %.0f s %s the orchestrator's. Calls do not"
                    " depend on it; dates in logs and certificates do.",
                    abs(ahead),
                    direction,
                )

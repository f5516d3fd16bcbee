"""The check of a call of Meadow's own node: signed by its key, for this server, this federation,
this method and this body, and for the first time.

    MDW-745 a wrong signature                    MDW-747 a call made before
    MDW-760 signed for no challenge of this server's, or not at all
    MDW-763 a silo's clock is wrong (a line in the log)
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.call_signature import (
    CALL,
    CallStatement,
    body_digest,
    server_digest,
)
from azureml_jobs.identity.signatures import LONGEST_SIGNATURE, is_signed
from server.orchestrator.challenges import Challenges
from server.orchestrator.refusals import NeedsChallenge, Refusal
from strategies.wire.headers import (
    CALL_CHALLENGE,
    CALL_NUMBER,
    CALL_SIGNATURE,
    CALL_TIME,
)

log = logging.getLogger(__name__)

CLOCK_SECONDS: Final = 30.0
"""A difference of clocks that is named; calls do not depend on it."""
CLOCK_LOG_SECONDS: Final = 3600.0
_LONGEST: Final = {CALL_NUMBER: 20, CALL_TIME: 20, CALL_SIGNATURE: LONGEST_SIGNATURE}


@dataclass(frozen=True)
class SignedHeaders:
    """What the headers of a call say, checked in their form alone."""

    challenge: bytes
    number: int
    time: str
    signature: str


class OwnCalls:
    """Checks signed calls against the challenges that were given; safe to use from any thread."""

    def __init__(
        self,
        federation: str,
        certificate: bytes,
        challenges: Challenges,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`certificate` is the server's own, in PEM, as the silos get it with a challenge."""
        self._federation = federation
        self._certificate = certificate
        self._server = server_digest(certificate)
        self._server_before = self._server
        self._challenges = challenges
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}

    def use(self, certificate: bytes) -> None:
        """Give challenges with another certificate; calls for the one before count too.

        A silo that stays connected has not seen the new one.
        """
        self._server_before = self._server
        self._server = server_digest(certificate)
        self._certificate = certificate

    def begin(self, metadata: Sequence[tuple[str, Any]], key: bytes) -> SignedHeaders:
        """Return what the headers of a call with this key (PEM) say.

        Raises Refusal MDW-760 with a new challenge where they answer none of this server's,
        MDW-742 where they are malformed.
        """
        names = [name for name, _ in metadata if name.startswith("meadow-")]
        if len(names) != len(set(names)):
            raise Refusal("MDW-742", "A header of a signed call occurs twice.")
        told = dict(metadata)
        challenge = told.get(CALL_CHALLENGE, b"")
        if not isinstance(challenge, bytes) or not self._challenges.is_known(key, challenge):
            fresh = self._challenges.give(key)
            raise NeedsChallenge(fresh, self._certificate, self._clock())
        texts = {name: told.get(name, "") for name in _LONGEST}
        for name, text in texts.items():
            if not isinstance(text, str) or not 0 < len(text) <= _LONGEST[name]:
                raise Refusal("MDW-742", f"The header {name} is missing or too long.")
        if not texts[CALL_NUMBER].isascii() or not texts[CALL_NUMBER].isdigit():
            raise Refusal("MDW-742", f"The header {CALL_NUMBER} is not a number.")
        return SignedHeaders(
            challenge, int(texts[CALL_NUMBER]), texts[CALL_TIME], texts[CALL_SIGNATURE]
        )

    def check(
        self,
        said: SignedHeaders,
        method: str,
        body: bytes | memoryview,
        key: bytes,
        public: ec.EllipticCurvePublicKey,
        silo: str,
    ) -> None:
        """Raise Refusal unless the key has signed this call, for this server, and for the first
        time.

        `body` is what is signed of its body (`strategies.wire.transfer_calls.signed_bytes`).
        """
        statement = CallStatement(
            self._federation,
            self._server,
            said.challenge,
            said.number,
            method,
            said.time,
            body_digest(body),
        )
        before = replace(statement, server=self._server_before)
        signed = (one.to_bytes() for one in dict.fromkeys((statement, before)))
        if not any(is_signed(public, CALL, one, said.signature) for one in signed):
            raise Refusal(
                "MDW-745",
                f"The call is not signed by {silo}'s key for this server, the federation"
                f" {self._federation}, this method and this body.",
            )
        if not self._challenges.use(key, said.challenge, said.number):
            raise Refusal("MDW-747", f"A signature of {silo} was used before.")
        self._compare_clocks(said.time, silo)

    def _compare_clocks(self, theirs: str, silo: str) -> None:
        """Name a silo whose clock is wrong, once an hour."""
        now = self._clock()
        with contextlib.suppress(ValueError):
            ahead = float(theirs) - now
            if not abs(ahead) > CLOCK_SECONDS:
                return
            with self._lock:
                if now - self._told.get(silo, -CLOCK_LOG_SECONDS) < CLOCK_LOG_SECONDS:
                    return
                self._told[silo] = now
            direction = "ahead of" if ahead > 0 else "behind"
            log.warning(
                "MDW-763: the clock of %s is %.0f s %s the orchestrator's. Its calls count all the"
                " same; set the clock.",
                silo,
                abs(ahead),
                direction,
            )

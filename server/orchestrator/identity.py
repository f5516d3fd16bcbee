"""Who may call: every call is checked here before anything else is done, and refused with a reason
that has a code.

Flower's nodes sign a timestamp only, and its server remembers no signature. Here a header is parsed
only for a key that was admitted; a signature counts once, and not at all where it is older than
this process, which can't know whether its predecessor saw it; a clock that is wrong is called so. A
call carries: `flwr-public-key-bin` (PEM), `flwr-timestamp` (ISO 8601), `flwr-signature-bin` (ECDSA
over the timestamp).

On the port of Meadow's own nodes a call also comes over a connection whose client certificate the
CA has signed (`azureml_jobs.identity.signed_admission`). gRPC checks that certificate once, when the
connection opens; here its key is compared with the list of admitted keys at each call, so that a
key which is revoked, or admitted again, is so at once on connections that are open.

    MDW-741 signed before this server started
    MDW-742 headers missing or malformed      MDW-743 a key that is not admitted     MDW-744 a key that was revoked
    MDW-745 a wrong signature                 MDW-746 the silo's clock is wrong      MDW-747 a signature used before
    MDW-748 another node's id or key          MDW-749 too many calls of one key      MDW-753 another Flower
    MDW-717 an admission that has expired
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from flwr.common.constant import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    public_key_to_bytes,
    verify_signature,
)

from azureml_jobs.identity.node_key import fingerprint as key_fingerprint
from conf.errors import IdentityError
from conf.flower_version import supports
from server.orchestrator.challenges import Challenges
from server.orchestrator.nodes import node_id_of
from server.orchestrator.refusals import OtherVersion, Refusal, SignedTooEarly
from strategies.wire.release import release_of

log = logging.getLogger(__name__)

AHEAD_SECONDS: Final = float(SYSTEM_TIME_TOLERANCE)
"""How far a silo's clock may be ahead of this one (Flower's)."""
BEHIND_SECONDS: Final = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
"""How far it may be behind, the way included (Flower's)."""
REMEMBERED: Final = 200_000
"""Signatures remembered per key: more than 650 calls a second for the whole window are refused."""
HEADERS = {PUBLIC_KEY_HEADER: 1024, TIMESTAMP_HEADER: 64, SIGNATURE_HEADER: 256}

Clock = Callable[[], float]
Handler = Callable[[Any, grpc.ServicerContext], Any]


class Keys:
    """The admitted public keys and the signatures that each has used; changes take effect at the
    next call.

    Signatures are remembered in memory: after a restart, one from before it is refused by its age.
    A silo whose clock is ahead can leave a window as long as that, `AHEAD_SECONDS` at most; the
    wait for a dead server's lease is longer.
    """

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._started = clock()
        self.challenges = Challenges()
        self._lock = threading.Lock()
        self._admitted: dict[bytes, tuple[str, ec.EllipticCurvePublicKey]] = {}
        self._shut_out: dict[bytes, bool] = {}  # whether it has expired; else it was revoked
        self._used: dict[bytes, OrderedDict[bytes, float]] = {}

    def admit(self, pem: bytes, silo: str) -> None:
        """Let a silo's key in. Raises IdentityError MDW-740 for anything but a NIST elliptic-curve
        key in PEM.
        """
        key = bytes_to_public_key(public_pem(pem))
        with self._lock:
            self._admitted[pem] = silo, key
            self._shut_out.pop(pem, None)

    def revoke(self, pem: bytes, *, expired: bool = False) -> None:
        """Shut a key out, because it was revoked or its admission has `expired`."""
        with self._lock:
            self._admitted.pop(pem, None)
            self._shut_out[pem] = expired
            self._used.pop(pem, None)
        self.challenges.forget(pem)

    def check_admitted(self, pem: bytes) -> None:
        """Raise Refusal unless a key is admitted: MDW-717 or 744 where it was once, else 743."""
        with self._lock:
            known = self._admitted.get(pem)
            expired = self._shut_out.get(pem)
        if known is not None:
            return
        name = fingerprint(pem)
        if expired is None:
            why = f"The key {name} is not admitted to this federation."
            raise Refusal("MDW-743", f"{why} Ask the orchestrator's owner.")
        if expired:
            why = f"The admission of the key {name} has expired."
            raise Refusal("MDW-717", f"{why} Ask the orchestrator's owner for another.")
        why = f"The key {name} was revoked."
        raise Refusal("MDW-744", f"{why} Ask the orchestrator's owner.")

    def silo(self, pem: bytes) -> str | None:
        """Return the silo of an admitted key."""
        with self._lock:
            known = self._admitted.get(pem)
        return known[0] if known else None

    def public(self, pem: bytes) -> ec.EllipticCurvePublicKey:
        """Return an admitted key; raises Refusal as `check_admitted`."""
        self.check_admitted(pem)
        with self._lock:
            known = self._admitted.get(pem)
        if known is None:
            # Shut out between the two looks.
            raise Refusal("MDW-744", f"The key {fingerprint(pem)} was revoked.")
        return known[1]

    def check(self, headers: dict[str, bytes | str]) -> bytes:
        """Return the key that signed a call just now and for the first time; raises Refusal."""
        pem, timestamp, signature = _headers(headers)
        self.check_admitted(pem)
        with self._lock:
            known = self._admitted.get(pem)
        if known is None:
            # Shut out between the two looks.
            raise Refusal("MDW-744", f"The key {fingerprint(pem)} was revoked.")
        silo, key = known
        signed_at = self._checked_clock(timestamp, silo)
        try:
            number = decode_dss_signature(signature)[0]
            valid = verify_signature(key, timestamp.encode("ascii"), signature)
        except (ValueError, UnsupportedAlgorithm):
            valid = False
        if not valid:
            raise Refusal(
                "MDW-745", f"The signature is not that of {silo}'s key {fingerprint(pem)}."
            )
        if early := max(0.0, self._started - signed_at):
            raise SignedTooEarly(silo, early)
        self._once(pem, number.to_bytes(66, "big"), silo)
        return pem

    def _checked_clock(self, timestamp: str, silo: str) -> float:
        """Return when a call was signed, in seconds since 1970 by the silo's clock."""
        try:
            signed_at = datetime.datetime.fromisoformat(timestamp)
            behind = self._clock() - signed_at.timestamp()
        except (ValueError, OverflowError, OSError):
            raise Refusal("MDW-742", f"The timestamp of {silo} is not a time.") from None
        if signed_at.tzinfo is None:
            raise Refusal("MDW-742", f"The timestamp of {silo} has no time zone.")
        if not -AHEAD_SECONDS < behind < BEHIND_SECONDS:
            direction = "behind" if behind > 0 else "ahead of"
            raise Refusal(
                "MDW-746",
                f"The clock of {silo} is {abs(behind):.0f} s {direction} the orchestrator's"
                f" (allowed: {BEHIND_SECONDS:.0f} s behind, {AHEAD_SECONDS:.0f} s ahead). Set the clock.",
            )
        return signed_at.timestamp()

    def _once(self, pem: bytes, number: bytes, silo: str) -> None:
        """Remember a signature by its first number: the second can be changed by anyone without the
        key.
        """
        now = self._clock()
        with self._lock:
            used = self._used.setdefault(pem, OrderedDict())
            while used and next(iter(used.values())) < now:
                used.popitem(last=False)
            if number in used:
                raise Refusal("MDW-747", f"A signature of {silo} was used before.")
            if len(used) >= REMEMBERED:
                raise Refusal(
                    "MDW-749", f"More than {REMEMBERED} calls of {silo} in {BEHIND_SECONDS:.0f} s."
                )
            used[number] = now + AHEAD_SECONDS + BEHIND_SECONDS


def public_pem(text: bytes) -> bytes:
    """Return a public key in the form in which Flower sends it, from PEM or OpenSSH's one line.

    Raises IdentityError MDW-740 where it is not a key of a NIST elliptic curve.
    """
    from cryptography.hazmat.primitives.serialization import (
        load_pem_public_key,
        load_ssh_public_key,
    )
    from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve

    try:
        key = load_ssh_public_key(text) if text.startswith(b"ecdsa-") else load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not uses_nist_ec_curve(key):
        hint = "Make one with `meadow keys silo`, or ssh-keygen -t ecdsa -b 384."
        raise IdentityError(
            "MDW-740", "A silo's public key is not an ECDSA key of a NIST curve.", hint
        )
    return public_key_to_bytes(key)


def fingerprint(pem: bytes) -> str:
    """Return how a key is named in `meadow keys list`; for what is not a key, half of its SHA-256."""
    try:
        return key_fingerprint(bytes_to_public_key(pem))
    except (ValueError, UnsupportedAlgorithm):
        return hashlib.sha256(pem).hexdigest()[:32]


def _headers(headers: dict[str, bytes | str]) -> tuple[bytes, str, bytes]:
    values = [_as_bytes(headers.get(name, b"")) for name in HEADERS]
    for value, (name, most) in zip(values, HEADERS.items(), strict=True):
        if not value:
            raise Refusal("MDW-742", f"The header {name} is missing.")
        if len(value) > most:
            raise Refusal("MDW-742", f"The header {name} has {len(value)} bytes, more than {most}.")
    if not values[1].isascii():
        raise Refusal("MDW-742", f"The header {TIMESTAMP_HEADER} is not ASCII.")
    return values[0], values[1].decode("ascii"), values[2]


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def check_node(request: Any, pem: bytes) -> None:
    """Raise Refusal unless the request speaks for the node whose key signed it."""
    if isinstance(request, RegisterNodeFleetRequest | UnregisterNodeFleetRequest):
        raise Refusal(
            "MDW-748",
            "Silos are admitted by the orchestrator's owner; they do not register themselves.",
        )
    if isinstance(request, ActivateNodeRequest):
        if request.public_key != pem:
            raise Refusal("MDW-748", "The key to activate is not the one that signed the call.")
        return
    claimed = request.node.node_id if hasattr(request, "node") else request.node_id
    if claimed != node_id_of(pem):
        raise Refusal(
            "MDW-748", "The call speaks for another node than the one whose key signed it."
        )


def check_version(metadata: Sequence[tuple[str, Any]], silo: str) -> None:
    """Raise Refusal where the caller's Flower is out of range; who does not say its own is let in.

    The two sides may differ within the range: the messages between them are the same in every
    release of it.
    """
    theirs = release_of(metadata)
    if theirs is not None and not supports(theirs):
        raise OtherVersion(silo, theirs)

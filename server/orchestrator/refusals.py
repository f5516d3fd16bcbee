"""Why a call is not let in: each reason has a code, a text for its caller and the log, and the status
of gRPC that makes the other side do the right thing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

import grpc

from conf.flower_version import REQUIREMENT
from strategies.wire.headers import CALL_CHALLENGE, CALL_SERVER, CALL_TIME, NEEDS_CHALLENGE
from strategies.wire.release import our_version, refusal

log = logging.getLogger(__name__)


class Refusal(Exception):
    """A call that is not let in, with the code and the reason that its caller and the log are told."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why
        self.trailing: tuple[tuple[str, str | bytes], ...] = ()

    def answer(self) -> tuple[grpc.StatusCode, str]:
        """Return the status and the details of the call's answer."""
        return grpc.StatusCode.UNAUTHENTICATED, str(self)


class SignedTooEarly(Refusal):
    """A call signed before this server started, perhaps a replay of one to its predecessor.

    It is answered as a server that is not there yet would: every node, stock ones too, signs
    another call and tries again, so that one whose clock is behind is let in as soon as its clock
    has passed the start.
    """

    def __init__(self, silo: str, early: float) -> None:
        what = f"The call of {silo} was signed {early:.1f} s before this orchestrator started."
        super().__init__(
            "MDW-741", f"{what} If it continues, the clock of {silo} is behind by as much: set it."
        )

    def answer(self) -> tuple[grpc.StatusCode, str]:
        """See `Refusal`."""
        return grpc.StatusCode.UNAVAILABLE, str(self)


class OtherVersion(Refusal):
    """A call by a release of Flower that is not supported.

    It is answered as Flower answers it, so that its own node says why it ends.
    """

    def __init__(self, silo: str, theirs: str) -> None:
        what = f"{silo} runs Flower {theirs[:20]!r}, the orchestrator {our_version()!r}."
        super().__init__("MDW-753", f"{what} Install '{REQUIREMENT}' on both sides.")

    def answer(self) -> tuple[grpc.StatusCode, str]:
        """See `Refusal`."""
        return grpc.StatusCode.FAILED_PRECONDITION, refusal(str(self))


class NeedsChallenge(Refusal):
    """A call that answers no challenge of this server's; it brings one, and is no fault."""

    def __init__(self, challenge: bytes, certificate: bytes, now: float) -> None:
        super().__init__(NEEDS_CHALLENGE, "Sign the call for the challenge that comes with this.")
        self.trailing = (
            (CALL_CHALLENGE, challenge),
            (CALL_SERVER, certificate),
            (CALL_TIME, f"{now:.0f}"),
        )


class NotAMessage(Refusal):
    """A call by an admitted key whose body can't be read: the call's fault, and not its sender's
    identity.
    """

    def __init__(self, why: str) -> None:
        super().__init__("MDW-644", why)

    def answer(self) -> tuple[grpc.StatusCode, str]:
        """See `Refusal`."""
        return grpc.StatusCode.INVALID_ARGUMENT, str(self)


class TooManyCalls(Refusal):
    """A call beyond its key's share, answered so that a node which is in earnest tries again."""

    def __init__(self, silo: str) -> None:
        super().__init__("MDW-764", f"{silo} has too many calls in flight.")

    def answer(self) -> tuple[grpc.StatusCode, str]:
        """See `Refusal`."""
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(self)


class LateBody(Refusal):
    """A call that ended before its body was here."""

    def __init__(self, silo: str, seconds: float) -> None:
        what = f"The body of a call of {silo} did not come whole within {seconds:.0f} s"
        super().__init__("MDW-719", f"{what}, or the call was given up.")

    def answer(self) -> tuple[grpc.StatusCode, str]:
        """See `Refusal`."""
        return grpc.StatusCode.CANCELLED, str(self)


class SparseLog:
    """Logs the first refusal of a kind and peer a minute, so that a flood of calls is not a flood
    of lines.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def refused(self, refusal: Refusal, peer: str, method: str) -> None:
        """Log a refused call of a peer (host:port), unless its like was logged within the minute."""
        kind = (refusal.code, peer.rpartition(":")[0])
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(kind, -60.0) < 60.0:
                return
            self._last[kind] = now
            while len(self._last) > 1000:
                self._last.popitem(last=False)
        log.warning("refused %s from %s: %s", method.rpartition("/")[2], peer, refusal)

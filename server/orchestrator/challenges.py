"""The challenges that the orchestrator gave to each key, and the numbers that were used with each.

A signed call names a challenge and a number. A number counts once, so that a recorded call is good
for nothing; calls may overtake each other, so the numbers below the highest that are still open are
remembered as bits. Challenges are random and in memory only: after a restart none is known, and
every node asks for another.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Final

from azureml_jobs.identity.call_signature import CHALLENGE_BYTES, LARGEST_NUMBER

CHALLENGES_PER_KEY: Final = 8
"""A node has one for each connection; the one unused for longest gives way."""
WINDOW: Final = 1024
"""How far a call may be overtaken; a key has no more than a few dozen calls in flight."""


class UsedNumbers:
    """The numbers that were used: the highest, and which of the `WINDOW` below it."""

    def __init__(self) -> None:
        self._highest = 0
        self._bits = 0

    def use(self, number: int) -> bool:
        """Use a number; False where it was used before, or is too far behind to know."""
        if not 0 < number <= LARGEST_NUMBER:
            return False
        ahead = number - self._highest
        if ahead > 0:
            # Not further than the window: a leap would shift by any number of bits.
            kept = self._bits << ahead if ahead < WINDOW else 0
            self._bits = (kept | 1) & ((1 << WINDOW) - 1)
            self._highest = number
            return True
        behind = -ahead
        if behind >= WINDOW or self._bits >> behind & 1:
            return False
        self._bits |= 1 << behind
        return True


class Challenges:
    """The challenges of all keys; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[bytes, OrderedDict[bytes, UsedNumbers]] = {}

    def give(self, key: bytes) -> bytes:
        """Return a new challenge for a key."""
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        with self._lock:
            given = self._given.setdefault(key, OrderedDict())
            given[challenge] = UsedNumbers()
            while len(given) > CHALLENGES_PER_KEY:
                given.popitem(last=False)
        return challenge

    def is_known(self, key: bytes, challenge: bytes) -> bool:
        """Return whether a challenge was given to a key, and is not forgotten."""
        with self._lock:
            return challenge in self._given.get(key, ())

    def use(self, key: bytes, challenge: bytes, number: int) -> bool:
        """Use a number with a challenge; False where it was used, or the challenge is not known.

        Call it for a signature that was verified, or anybody could use numbers up.
        """
        with self._lock:
            given = self._given.get(key)
            if given is None or challenge not in given:
                return False
            given.move_to_end(challenge)
            return given[challenge].use(number)

    def forget(self, key: bytes) -> None:
        """Forget the challenges of a key that was shut out."""
        with self._lock:
            self._given.pop(key, None)

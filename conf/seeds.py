"""Where every random draw comes from: the run's seed, the silo's name, the round and the phase, and
nothing else.
"""

from __future__ import annotations

import hashlib


def seed_for(seed: int, silo: str, round: int, phase: str) -> int:
    """Return a 63-bit seed for one draw, the same in every engine and mode.

    Never derived from node ids, workers or arrival, so that the same admitted replies give the same
    model.
    """
    text = f"{seed}\0{silo}\0{round}\0{phase}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1

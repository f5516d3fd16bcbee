"""What is done to a federation, and when: drawn from a seed, and nothing else.

Pure: the same seed, seconds and silos give the same plan on every machine. A plan is a deck of all
kinds in all phases, shuffled again and again, so that a short one has the front of a deck and an
hour several.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SERVER: Final = "server"
PHASES: Final = ("train", "evaluate")
ANY: Final = "any"

KILL, PAUSE, CLOCK, CUT, RATE, JOIN = "kill", "pause", "clock step", "link cut", "slow link", "join"
NEEDS_LINKS: Final = (CUT, RATE)

PAUSES: Final = (20.0, 60.0, 120.0)
"""Seconds: less than a silo's patience, as long as Flower's, and far beyond both."""
STEPS: Final = (-3600.0, -60.0, -1.0, 1.0, 60.0, 3600.0)
"""Seconds by which a clock is off from then on, until it is put right again."""
CUTS: Final = (3.0, 15.0, 25.0, 60.0)
RATES: Final = (200_000.0, 500_000.0, 2_000_000.0)
"""Bits a second."""
GAP: Final = 12.0
"""Seconds between the beginnings of two disturbances, in the mean: they overlap."""


@dataclass(frozen=True)
class Disturbance:
    """One thing that is done, `at` so many seconds from the beginning."""

    at: float
    kind: str
    whom: tuple[str, ...]
    """`SERVER`, or silos."""
    phase: str = ANY
    """In which phase of a round it begins, if one comes soon; `ANY`: whatever is going on."""
    seconds: float = 0.0
    """How long it lasts: until a killed process is started again, a pause or a cut is over."""
    amount: float = 0.0
    """Bits a second of a slow link, seconds of a clock step."""

    def __str__(self) -> str:
        how = {RATE: f" to {self.amount / 1000:g} kbit/s", CLOCK: f" by {self.amount:+g} s"}
        phase = "" if self.phase == ANY else f" in {self.phase}"
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        return f"{self.kind}{how.get(self.kind, '')}{lasting} of {', '.join(self.whom)}{phase}"


def plan(
    seed: int, seconds: float, silos: Sequence[str], late: Sequence[str] = (), *, links: bool = True
) -> list[Disturbance]:
    """Return what is done in so many seconds, in the order of its beginnings.

    `silos` are there from the start, `late` join once in the first half. Without `links` nothing is
    done to a link.
    """
    drawn = random.Random(f"disturbances/{seed}")
    found = [
        Disturbance(round(drawn.uniform(0.1, 0.5) * seconds, 1), JOIN, (silo,)) for silo in late
    ]
    at = 0.0
    for kind, on_server, phase, length, amount in _cards(drawn):
        if kind in NEEDS_LINKS and not links:
            continue
        at += drawn.expovariate(1 / GAP) + 1.0
        if at >= seconds:
            break
        # Of the silos one mostly, at times all: a quorum is lost then.
        many = drawn.choice([1, 1, 1, 2, len(silos)])
        chosen = (SERVER,) if on_server else tuple(sorted(drawn.sample(list(silos), many)))
        found.append(Disturbance(round(at, 1), kind, chosen, phase, length, amount))
    return sorted(found, key=lambda one: one.at)


def _cards(drawn: random.Random) -> Iterator[tuple[str, bool, str, float, float]]:
    """Yield kind, whether it is done to the server, phase, seconds and amount, without end."""
    while True:
        deck = list(_deck(drawn))
        drawn.shuffle(deck)
        yield from deck


def _deck(drawn: random.Random) -> Iterator[tuple[str, bool, str, float, float]]:
    for on_server in (True, False):
        for phase in PHASES:
            for seconds in PAUSES:
                yield PAUSE, on_server, phase, seconds, 0.0
        for phase in (*PHASES, *PHASES, ANY, ANY, ANY):
            yield KILL, on_server, phase, drawn.choice([0.0, 2.0, 23.0]), 0.0
        for step in STEPS:
            yield CLOCK, on_server, ANY, drawn.choice([10.0, 30.0, 60.0]), step
    for seconds in CUTS:
        for phase in (*PHASES, ANY):
            yield CUT, False, phase, seconds, 0.0
    for rate in RATES:
        for _ in range(2):
            yield RATE, False, ANY, drawn.choice([20.0, 45.0]), rate

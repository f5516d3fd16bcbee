"""Which worker a silo lives in: its data stays warm there, so a silo moves at most once."""

from __future__ import annotations

from collections.abc import Sequence

SETTLED_AFTER = 2
"""Trainings of a silo before its cost is believed: the first one also loads its data."""
UNEVEN = 0.05
"""Difference between two workers' seconds, as a share of the longer, that is not worth moving a silo for."""


class Homes:
    """The worker of each silo (by place), dealt in turn, and evened out once by what each silo's training took."""

    def __init__(self, silos: int, workers: int) -> None:
        self._workers = workers
        self._home = [place % workers for place in range(silos)]
        self._seconds: list[list[float]] = [[] for _ in range(silos)]
        self._settled = workers < 2

    def of(self, silo: int) -> int:
        """Return the worker that a silo lives in."""
        return self._home[silo]

    def took(self, silo: int, seconds: float) -> None:
        """Note how long a training of a silo took."""
        if not self._settled:
            self._seconds[silo].append(seconds)

    def settle(self) -> None:
        """Move silos once, as soon as every one has trained often enough; to be called while none of them works."""
        if not self._settled and all(len(seen) >= SETTLED_AFTER for seen in self._seconds):
            self._home = evened([min(seen) for seen in self._seconds], self._home, self._workers)
            self._settled = True


def evened(costs: Sequence[float], homes: Sequence[int], workers: int) -> list[int]:
    """Return homes under which the workers' sums of costs differ least, with few moves from the present ones.

    Greedy: while it helps, one silo moves, or two change places, between the most and the least busy worker.
    """
    homes = list(homes)
    for _ in range(len(homes)):
        loads = [
            sum(c for c, home in zip(costs, homes, strict=True) if home == w)
            for w in range(workers)
        ]
        most, least = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[most] - loads[least]
        if gap <= UNEVEN * loads[most]:
            break
        ours = [i for i, home in enumerate(homes) if home == most]
        theirs = [i for i, home in enumerate(homes) if home == least]
        moves = [(costs[i], (i,)) for i in ours] + [
            (costs[i] - costs[j], (i, j)) for i in ours for j in theirs
        ]
        useful = [(abs(shift - gap / 2), silos) for shift, silos in moves if 0 < shift < gap]
        if not useful:
            break
        for silo in min(useful)[1]:
            homes[silo] = least if homes[silo] == most else most
    return homes

"""Which worker a silo is assigned to: its data stays in that worker's memory, so a silo moves only
where that pays.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

BALANCED_AFTER = 2
"""Trainings of a silo before its cost is believed: the first one also loads its data."""
GUESSED_AFTER = 4
"""Silos whose seconds are known before those of another are guessed from them."""
UNEVEN = 0.05
"""Share of the longer of two workers' seconds by which they may differ without a silo being moved.
"""
TRAIN = "train"
"""The kind of message whose seconds balance the workers."""


@dataclass
class _Seconds:
    """Of one kind of a silo's messages: the first and the fewest, and how often."""

    first: float
    least: float
    count: int = 1


@dataclass
class SiloCosts:
    """How long each silo's messages took, by silo (an index) and kind (`train`, `evaluate`)."""

    _seen: dict[tuple[int, str], _Seconds] = field(default_factory=dict)
    _firsts: dict[str, list[float]] = field(default_factory=dict)
    """By kind: the seconds that the first message of each silo took, in order."""

    def record(self, silo: int, kind: str, seconds: float) -> None:
        """Record how long one message took."""
        seen = self._seen.get((silo, kind))
        if seen is None:
            self._seen[silo, kind] = _Seconds(seconds, seconds)
            insort(self._firsts.setdefault(kind, []), seconds)
            return
        seen.least = min(seen.least, seconds)
        seen.count += 1

    def expected(self, silo: int, kind: str) -> float | None:
        """Return how long the next one will take; None where nothing is known.

        A silo that was not asked yet takes as long as three in four of the first messages so far,
        once several silos were asked: the very first one of a process also reads the set of all.
        """
        seen = self._seen.get((silo, kind))
        if seen is not None:
            return seen.least
        firsts = self._firsts.get(kind, [])
        return firsts[len(firsts) * 3 // 4] if len(firsts) >= GUESSED_AFTER else None

    def loading(self, silo: int) -> float:
        """Return at most how long another worker would need to load the silo's data.

        Nothing for a silo that has not trained: its data is not in any worker's memory yet.
        """
        seen = self._seen.get((silo, TRAIN))
        if seen is None:
            return 0.0
        # After one training alone, nobody knows how much of it was the loading.
        return seen.first if seen.count == 1 else seen.first - seen.least

    def believed(self, silos: int) -> list[float] | None:
        """Return the seconds of each silo's training, None until all have trained often enough."""
        costs = []
        for silo in range(silos):
            seen = self._seen.get((silo, TRAIN))
            if seen is None or seen.count < BALANCED_AFTER:
                return None
            costs.append(seen.least)
        return costs


class WorkerAssignment:
    """The worker of each silo (by index): assigned in turn, balanced once by what each silo's
    training took, and moved where an idle worker takes a silo over.
    """

    def __init__(self, silos: int, workers: int, costs: SiloCosts) -> None:
        self._workers = workers
        self._costs = costs
        self._worker_of = [index % workers for index in range(silos)]
        # With one worker there is nothing to balance.
        self._balanced = workers < 2

    def worker_of(self, silo: int) -> int:
        """Return the worker that a silo is assigned to."""
        return self._worker_of[silo]

    def move(self, silo: int, worker: int) -> None:
        """Assign a silo to another worker."""
        self._worker_of[silo] = worker

    def rebalance_once(self) -> list[tuple[int, int]]:
        """Move silos, once, as soon as every one has trained often enough; to be called while none
        is training.

        Returns (silo, worker before) of those that moved.
        """
        if self._balanced:
            return []
        costs = self._costs.believed(len(self._worker_of))
        if costs is None:
            return []
        before = self._worker_of
        self._worker_of = balanced(costs, before, self._workers)
        self._balanced = True
        pairs = enumerate(zip(before, self._worker_of, strict=True))
        return [(silo, old) for silo, (old, new) in pairs if old != new]


def balanced(costs: Sequence[float], assigned: Sequence[int], workers: int) -> list[int]:
    """Return an assignment under which the workers' sums of costs differ least, with few moves from
    the present one.

    Greedy: while it helps, one silo moves, or two change places, between the most and the least
    busy worker.
    """
    result = list(assigned)
    for _ in range(len(result)):
        loads = [0.0] * workers
        for cost, worker in zip(costs, result, strict=True):
            loads[worker] += cost
        most = loads.index(max(loads))
        least = loads.index(min(loads))
        gap = loads[most] - loads[least]
        if gap <= UNEVEN * loads[most]:
            break
        swap = _best_swap(costs, result, most, least, gap)
        if not swap:
            break
        for silo in swap:
            result[silo] = least if result[silo] == most else most
    return result


def _best_swap(
    costs: Sequence[float], assigned: Sequence[int], most: int, least: int, gap: float
) -> tuple[int, ...]:
    """Return the silos to move between two workers so that they differ least; none where no move
    helps.
    """
    ours = [silo for silo, worker in enumerate(assigned) if worker == most]
    theirs = [silo for silo, worker in enumerate(assigned) if worker == least]
    swaps: list[tuple[float, tuple[int, ...]]] = [(costs[silo], (silo,)) for silo in ours]
    swaps += [(costs[i] - costs[j], (i, j)) for i in ours for j in theirs]
    # What is moved away from one worker comes to the other: half of the gap makes them equal.
    helpful = [(abs(shift - gap / 2), silos) for shift, silos in swaps if 0 < shift < gap]
    return min(helpful)[1] if helpful else ()

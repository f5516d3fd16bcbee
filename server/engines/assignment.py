"""Which worker a silo is assigned to: its data stays in that worker's memory, so a silo moves at
most once.
"""

from __future__ import annotations

from collections.abc import Sequence

BALANCED_AFTER = 2
"""Trainings of a silo before its cost is believed: the first one also loads its data."""
UNEVEN = 0.05
"""Share of the longer of two workers' seconds by which they may differ without a silo being moved.
"""


class WorkerAssignment:
    """The worker of each silo (by index): assigned in turn, and balanced once by what each silo's
    training took.
    """

    def __init__(self, silos: int, workers: int) -> None:
        self._workers = workers
        self._worker_of = [index % workers for index in range(silos)]
        self._seconds: list[list[float]] = [[] for _ in range(silos)]
        # With one worker there is nothing to balance.
        self._balanced = workers < 2

    def worker_of(self, silo: int) -> int:
        """Return the worker that a silo is assigned to."""
        return self._worker_of[silo]

    def record(self, silo: int, seconds: float) -> None:
        """Record how long a training of a silo took."""
        if not self._balanced:
            self._seconds[silo].append(seconds)

    def rebalance_once(self) -> None:
        """Move silos, once, as soon as every one has trained often enough; to be called while none
        is training.
        """
        if self._balanced or any(len(seen) < BALANCED_AFTER for seen in self._seconds):
            return
        costs = [min(seen) for seen in self._seconds]
        self._worker_of = balanced(costs, self._worker_of, self._workers)
        self._balanced = True


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

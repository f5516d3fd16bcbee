"""What waits for each worker of the pool: a queue each, messages of small silos a few at a time,
and an idle worker takes what has not begun.

A silo's messages go to the worker that has its data. Where that one is busy for longer than another
worker would need to load the data, an idle one takes the last message of the longest queue, and the
silo with it: the first is told to let its data go, so that each silo's data is in one worker.
Nothing of a result depends on the worker: the silo's state travels with each message.

No locks here: the pool holds its own around each call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from flwr.app import Message

from server.engines.assignment import SiloCosts, WorkerAssignment
from strategies.wire import protocol

BATCH_SECONDS: Final = 0.02
"""Of work that a worker gets at once at least, where there are so many messages. Short silos are
asked several at a time, since each exchange costs a wake-up of both processes.
"""
BATCH_SECONDS_AT_MOST: Final = 0.2
"""What a worker has got can't be taken by another. So it gets half of what waits for it, up to this:
few exchanges for many silos, and the last ones come a few at a time (guided self-scheduling,
Polychronopoulos and Kuck 1987).
"""
BATCH_MESSAGES: Final = 16
BATCH_BYTES: Final = 8 << 20
"""Of all arrays of a batch's messages, sent and expected back: what bounds the memory it takes."""
STEAL_SECONDS = 0.02
"""That a message must have to wait at least for its own worker before an idle one takes it."""


@dataclass(eq=False)
class Job:
    """A message to a silo, by its index; `id` is the message's."""

    message: Message
    silo: int
    id: str

    @property
    def kind(self) -> str:
        """`train`, `evaluate` or another type of message."""
        return self.message.metadata.message_type.partition(".")[0]


class SiloQueues:
    """The messages that have not begun, by worker, and which silos are running."""

    def __init__(self, silos: int, workers: int) -> None:
        self.costs = SiloCosts()
        self._assignment = WorkerAssignment(silos, workers, self.costs)
        self._queues: list[deque[Job]] = [deque() for _ in range(workers)]
        self._batches: list[list[Job]] = [[] for _ in range(workers)]
        """What each worker has got and not answered."""
        self._started = [False] * workers
        self._since = [0.0] * workers
        """When it got that, when it gave its last answer, or when something began to wait for it."""
        self._left: list[list[int]] = [[] for _ in range(workers)]
        """Silos that have moved away from a worker, which does not know it yet."""

    def push(self, jobs: Iterable[Job], now: float) -> None:
        """Queue messages, each for its silo's worker, those that take longest first."""
        if not any(self._batches) and not any(self._queues):
            for silo, before in self._assignment.rebalance_once():
                self._left[before].append(silo)
        for job in jobs:
            worker = self._assignment.worker_of(job.silo)
            if not self._queues[worker] and not self._batches[worker]:
                self._since[worker] = now
            self._queues[worker].append(job)
        for worker, queue in enumerate(self._queues):
            self._queues[worker] = self._longest_first(queue)

    def first(self, ids: Collection[str]) -> Job | None:
        """Take the first queued message that has one of the ids."""
        for queue in self._queues:
            for job in queue:
                if job.id in ids:
                    queue.remove(job)
                    return job
        return None

    def take(self, worker: int, now: float) -> list[Job]:
        """Return what a worker that has nothing to do is to do next; empty where there is nothing."""
        self._started[worker] = True
        batch = self._own(worker) or self._stolen(worker, now)
        self._batches[worker] = list(batch)
        if batch:
            self._since[worker] = now
        return batch

    def answered(self, worker: int, job: Job, now: float) -> None:
        """Note that one message of a worker's batch has its answer, whatever that is."""
        self._batches[worker].remove(job)
        self._since[worker] = now

    def give_back(self, worker: int, jobs: list[Job]) -> None:
        """Queue again what the worker had got and not begun when it ended."""
        for job in reversed(jobs):
            self._batches[worker].remove(job)
            self._queues[worker].appendleft(job)

    def drop(self, ids: Collection[str]) -> None:
        """Forget messages that have not begun."""
        for worker, queue in enumerate(self._queues):
            self._queues[worker] = deque(job for job in queue if job.id not in ids)

    def others_wait(self, worker: int) -> bool:
        """Return whether something waits for another worker."""
        return any(queue for other, queue in enumerate(self._queues) if other != worker)

    def left(self, worker: int) -> list[int]:
        """Return the silos whose data the worker is to let go, once."""
        left = self._left[worker]
        self._left[worker] = []
        # A silo may have come back since.
        return [silo for silo in left if self._assignment.worker_of(silo) != worker]

    def __len__(self) -> int:
        """The messages that have not begun."""
        return sum(len(queue) for queue in self._queues)

    def _longest_first(self, queue: deque[Job]) -> deque[Job]:
        """Return a queue with the silos first that nobody has measured, then those that take
        longest; the messages of one silo stay in their order.
        """
        seconds: dict[int, float] = {}
        for job in queue:
            expected = self._expected(job)
            longest = math.inf if expected is None else expected
            seconds[job.silo] = max(seconds.get(job.silo, 0.0), longest)
        return deque(sorted(queue, key=lambda job: -seconds[job.silo]))

    def _own(self, worker: int) -> list[Job]:
        """Take the next messages of a worker's own queue: one, or several of short silos."""
        queue = self._queues[worker]
        busy = self._running()
        batch: list[Job] = []
        expected = {job.id: self._expected(job) for job in queue}
        half = sum(one or 0.0 for one in expected.values()) / 2
        room = max(BATCH_SECONDS, min(half, BATCH_SECONDS_AT_MOST))
        seconds = 0.0
        size = 0
        for job in list(queue):
            # A silo does one thing at a time: its state goes from one message to the next.
            if job.silo in busy:
                continue
            one = expected[job.id]
            # What nobody has measured goes alone.
            seconds += math.inf if one is None else one
            size += 2 * protocol.size(job.message.content) if job.message.has_content() else 0
            if batch and (seconds > room or size > BATCH_BYTES):
                break
            queue.remove(job)
            batch.append(job)
            busy.add(job.silo)
            if len(batch) == BATCH_MESSAGES:
                break
        return batch

    def _stolen(self, worker: int, now: float) -> list[Job]:
        """Take the last message of the queue that has to wait longest, where that pays."""
        waits = [(self._wait(other, now), other) for other in range(len(self._queues))]
        for wait, other in sorted(waits, reverse=True):
            job = self._last(other)
            # Workers start one after another: the first must not take the silos of all others.
            if job is None or other == worker or not self._started[other]:
                continue
            if wait < max(STEAL_SECONDS, self.costs.loading(job.silo)):
                continue
            self._queues[other].remove(job)
            self._assignment.move(job.silo, worker)
            self._left[other].append(job.silo)
            return [job]
        return []

    def _last(self, worker: int) -> Job | None:
        busy = self._running()
        for job in reversed(self._queues[worker]):
            if job.silo not in busy:
                return job
        return None

    def _wait(self, worker: int, now: float) -> float:
        """Return how long the last message of a queue has to wait until its worker begins it."""
        queue = self._queues[worker]
        if not queue:
            return 0.0
        elapsed = max(0.0, now - self._since[worker])
        # One that has nothing is starting again, which nobody has measured.
        expected = sum(self._expected(job) or 0.0 for job in self._batches[worker])
        # What is overdue, or was never measured, lasts as far as anybody can know as long again.
        running = abs(expected - elapsed)
        ahead = [self._expected(job) or 0.0 for job in list(queue)[:-1]]
        return running + sum(ahead)

    def _running(self) -> set[int]:
        return {job.silo for batch in self._batches for job in batch}

    def _expected(self, job: Job) -> float | None:
        return self.costs.expected(job.silo, job.kind)

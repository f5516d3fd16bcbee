"""What waits for a worker: short silos together, long ones alone, and the idle take what waits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from server.engines.assignment import GUESSED_AFTER
from server.engines.queues import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    BATCH_SECONDS,
    BATCH_SECONDS_AT_MOST,
    STEAL_SECONDS,
    Job,
    SiloQueues,
)
from server.engines.server_identity import give_identity_back, take_identity

SHORT = 0.001
LONG = 10.0


@pytest.fixture(autouse=True)
def server_of_a_run() -> Iterator[None]:
    before = take_identity(7)
    yield
    give_identity_back(before)


def job(silo: int, kind: str = "train", size: int = 1) -> Job:
    model = ArrayRecord({"w": Array(np.zeros(size, np.int8))})
    return Job(Message(RecordDict({"arrays": model}), 1, kind), silo, id=f"{kind}-{silo}")


def queues(costs: dict[int, float], workers: int = 2, first: float | None = None) -> SiloQueues:
    """Return queues of silos that have trained twice; loading took what `first` says, or nothing."""
    made = SiloQueues(len(costs), workers)
    for silo, seconds in costs.items():
        made.costs.record(silo, "train", seconds if first is None else first)
        made.costs.record(silo, "train", seconds)
    # Balanced by now, before any test looks where a silo is.
    made.push([], 0.0)
    return made


def silos(jobs: list[Job]) -> list[int]:
    return [job.silo for job in jobs]


def test_what_nobody_has_measured_goes_alone() -> None:
    made = SiloQueues(4, 1)
    made.push([job(i) for i in range(4)], 0.0)
    assert silos(made.take(0, 0.0)) == [0]


def test_short_silos_go_together_up_to_a_number() -> None:
    made = queues(dict.fromkeys(range(50), SHORT), workers=1)
    made.push([job(i) for i in range(50)], 0.0)
    assert silos(made.take(0, 0.0)) == list(range(BATCH_MESSAGES))


def test_a_worker_gets_half_of_what_waits_for_it_and_the_last_ones_a_few_at_a_time() -> None:
    each = BATCH_SECONDS / 2
    made = queues(dict.fromkeys(range(25), each), workers=1)
    made.push([job(i) for i in range(25)], 0.0)
    batches = []
    while batch := made.take(0, 0.0):
        batches.append(len(batch))
        for one in batch:
            made.answered(0, one, 0.0)
    assert batches == [12, 6, 3, 2, 2]


def test_a_worker_does_not_get_more_than_another_could_wait_for() -> None:
    each = BATCH_SECONDS_AT_MOST / 2
    made = queues(dict.fromkeys(range(9), each), workers=1)
    made.push([job(i) for i in range(9)], 0.0)
    assert len(made.take(0, 0.0)) == 2


def test_a_silo_that_is_longer_than_a_batch_goes_alone() -> None:
    made = queues({0: LONG, 1: LONG, 2: SHORT}, workers=1)
    made.push([job(i) for i in range(3)], 0.0)
    first = made.take(0, 0.0)
    assert silos(first) == [0]
    made.answered(0, first[0], 10.0)
    assert silos(made.take(0, 10.0)) == [1]


def test_models_that_are_large_together_go_one_by_one() -> None:
    made = queues(dict.fromkeys(range(3), SHORT), workers=1)
    made.push([job(i, size=BATCH_BYTES // 3) for i in range(3)], 0.0)
    assert silos(made.take(0, 0.0)) == [0]


def test_those_that_take_longest_begin_first() -> None:
    made = queues({0: SHORT, 1: LONG, 2: 2 * LONG}, workers=1)
    made.push([job(i) for i in range(3)], 0.0)
    order = []
    while batch := made.take(0, 0.0):
        order += silos(batch)
        for one in batch:
            made.answered(0, one, 0.0)
    assert order == [2, 1, 0]


def test_a_silo_does_one_thing_at_a_time_also_at_two_workers() -> None:
    made = queues({0: SHORT, 1: SHORT})
    made.push([job(0), job(0, "evaluate")], 0.0)
    running = made.take(0, 0.0)
    assert [one.kind for one in running] == ["train"]
    assert made.take(1, 1e9) == []
    made.answered(0, running[0], 1.0)
    assert [one.kind for one in made.take(0, 1.0)] == ["evaluate"]


def test_an_idle_worker_takes_the_last_of_the_longest_queue_and_its_silo_with_it() -> None:
    made = SiloQueues(4, 2)
    made.push([job(0), job(2)], 0.0)
    assert silos(made.take(0, 0.0)) == [0]
    assert made.take(1, STEAL_SECONDS / 2) == []
    assert made.others_wait(1)
    stolen = made.take(1, 2 * STEAL_SECONDS)
    assert silos(stolen) == [2]
    # From now on it is there, and the first one is told once.
    assert made.left(0) == [2] and made.left(0) == []
    made.answered(1, stolen[0], 1.0)
    made.push([job(2)], 1.0)
    assert silos(made.take(1, 1.0)) == [2]


def test_nothing_is_taken_from_a_worker_that_has_not_started() -> None:
    made = SiloQueues(4, 2)
    made.push([job(0), job(2)], 0.0)
    assert made.take(1, 1e9) == []


def test_a_silo_stays_where_loading_its_data_again_takes_longer_than_to_wait() -> None:
    made = queues({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, first=3.0)
    made.push([job(0), job(2)], 0.0)
    assert len(made.take(0, 0.0)) == 1
    # It begins in a second, and loading takes two.
    assert made.take(1, 0.0) == []
    # The one before it is overdue by two: as far as anybody can know, for as long again.
    assert len(made.take(1, 3.0)) == 1


def test_the_silo_that_comes_back_is_not_let_go() -> None:
    made = SiloQueues(2, 2)
    made.take(0, 0.0)
    made.push([job(0)], 0.0)
    taken = made.take(1, 1.0)
    assert silos(taken) == [0]
    made.answered(1, taken[0], 1.0)
    made.push([job(0)], 1.0)
    assert silos(made.take(0, 2.0)) == [0]
    assert made.left(0) == [] and made.left(1) == [0]


def test_what_a_dead_worker_had_not_begun_is_first_again() -> None:
    made = queues(dict.fromkeys(range(6), SHORT), workers=1)
    made.push([job(i) for i in range(6)], 0.0)
    batch = made.take(0, 0.0)
    made.answered(0, batch[0], 0.0)
    made.give_back(0, batch[1:])
    assert len(made) == 5
    assert silos(made.take(0, 0.0)) == [1, 2, 3, 4, 5]


def test_what_is_dropped_never_begins() -> None:
    made = SiloQueues(3, 1)
    made.push([job(i) for i in range(3)], 0.0)
    made.drop({"train-0", "train-2"})
    assert silos(made.take(0, 0.0)) == [1]


def test_a_short_guess_lets_unknown_silos_go_together() -> None:
    made = SiloQueues(20, 1)
    for silo in range(GUESSED_AFTER):
        made.costs.record(silo, "train", SHORT)
    made.push([job(i) for i in range(10, 15)], 0.0)
    assert len(made.take(0, 0.0)) == 5

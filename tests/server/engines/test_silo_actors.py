"""A silo's messages on Ray go to the actor that has its data, and to another where that pays."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from server.engines.queues import STEAL_SECONDS
from server.engines.silo_actors import Homes


def train(homes: Homes, silo: int) -> int:
    actor, _ = homes.take(silo)
    homes.give_back(actor, silo, "train")
    return actor


def test_each_silo_has_a_home_and_keeps_it() -> None:
    homes = Homes(silos=6, actors=3)
    first = [train(homes, silo) for silo in range(6)]
    assert first == [0, 1, 2, 0, 1, 2]
    assert [train(homes, silo) for silo in reversed(range(6))] == first[::-1]


def test_a_message_waits_for_its_home_rather_than_load_its_data_elsewhere() -> None:
    homes = Homes(silos=4, actors=2)
    homes._costs.record(2, "train", 60.0)  # a minute, of which nobody knows how much is loading
    actor, _ = homes.take(0)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(homes.take, 2)
        # The other actor is idle all the time, and takes its own silo.
        assert homes.take(1) == (1, [])
        homes.give_back(1, 1, "train")
        time.sleep(2 * STEAL_SECONDS)
        assert not waiting.done()
        homes.give_back(actor, 0, "train")
        assert waiting.result(timeout=10) == (0, [])


def started(homes: Homes, actors: int) -> Homes:
    """Let each actor answer a message of its first silo."""
    for silo in range(actors):
        train(homes, silo)
    return homes


def test_a_silo_moves_from_a_busy_home_to_an_idle_actor_and_its_data_is_let_go() -> None:
    homes = started(Homes(silos=4, actors=2), 2)
    assert homes.take(0) == (0, [])
    # Nothing is known of silo 2: its data is in no actor yet.
    assert homes.take(2) == (1, [])
    homes.give_back(1, 2, "train")
    homes.give_back(0, 0, "train")
    assert homes.take(0) == (0, [2])
    homes.give_back(0, 0, "train")
    assert homes.take(0) == (0, [])  # said once
    homes.give_back(0, 0, "train")
    assert train(homes, 2) == 1


def test_a_silo_that_came_back_is_not_let_go() -> None:
    homes = started(Homes(silos=4, actors=2), 2)
    homes.take(0)
    homes.take(2)  # moves to 1
    homes.give_back(0, 0, "train")
    assert homes._left == [[2], []]
    homes._assignment.move(2, 0)
    assert homes.take(0) == (0, [])


def test_an_actor_that_has_not_answered_yet_keeps_its_silos() -> None:
    homes = Homes(silos=4, actors=2)
    homes.take(0)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(homes.take, 2)
        time.sleep(3 * STEAL_SECONDS)
        assert not waiting.done()  # 1 is idle, and 0 still imports what it needs
        homes.give_back(0, 0, "train")
        assert waiting.result(timeout=10) == (0, [])


def test_an_actor_that_has_just_answered_goes_on_with_its_own() -> None:
    homes = started(Homes(silos=40, actors=2), 2)
    where: dict[int, set[int]] = {silo: set() for silo in range(40)}

    def work(silo: int) -> None:
        actor, _ = homes.take(silo)
        time.sleep(0.005)
        homes.give_back(actor, silo, "train")
        where[silo].add(actor)

    with ThreadPoolExecutor(40) as threads:
        for _ in range(5):
            list(threads.map(work, range(40)))
    # At the end of a round the one that is done takes a last one or two of the other's.
    assert sum(len(actors) for actors in where.values()) < 60


def test_no_actor_has_two_messages_at_once_and_none_is_lost() -> None:
    homes = Homes(silos=20, actors=3)
    busy = [threading.Lock() for _ in range(3)]
    done: list[int] = []

    def work(silo: int) -> None:
        actor, _ = homes.take(silo)
        assert busy[actor].acquire(blocking=False)
        time.sleep(0.001)
        busy[actor].release()
        homes.give_back(actor, silo, "train")
        done.append(silo)

    with ThreadPoolExecutor(9) as threads:
        list(threads.map(work, [silo for _ in range(5) for silo in range(20)]))
    assert sorted(done) == sorted(5 * list(range(20)))
    assert homes.is_idle()

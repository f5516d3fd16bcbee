"""Work for one node wakes that node's question, and no other."""

from __future__ import annotations

import threading
import time

from server.orchestrator.work_signals import WorkSignals
from tests.faults.federation import until


def waiting(signals: WorkSignals, lock: threading.RLock, node: int, woken: list[int]) -> None:
    with lock:
        signals.wait(node, 30.0)
        woken.append(node)


def test_work_wakes_its_own_node_alone_and_the_end_wakes_all() -> None:
    lock = threading.RLock()
    signals = WorkSignals(lock)
    woken: list[int] = []
    threads = [
        threading.Thread(target=waiting, args=(signals, lock, node, woken)) for node in range(3)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(signals._of) == 3)
    with lock:
        signals.tell(1)
        signals.tell(99)
    until(lambda: woken == [1])
    with lock:
        signals.tell_all()
    for thread in threads:
        thread.join(10)
    assert sorted(woken) == [0, 1, 2]


def test_a_wait_ends_after_its_time() -> None:
    lock = threading.RLock()
    began = time.monotonic()
    with lock:
        WorkSignals(lock).wait(1, 0.05)
    assert time.monotonic() - began < 10

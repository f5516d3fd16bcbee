"""Threads follow the number of admitted keys, up and down."""

from __future__ import annotations

import threading

import pytest

from server.orchestrator.call_threads import CallThreads
from tests.faults.federation import until


def test_tasks_beyond_the_limit_wait_and_a_higher_limit_lets_them_run_at_once() -> None:
    threads = CallThreads(2)
    gate = threading.Event()
    started = [threading.Event() for _ in range(5)]

    def work(number: int) -> int:
        started[number].set()
        gate.wait(20)
        return number

    futures = [threads.submit(work, number) for number in range(5)]
    until(lambda: started[0].is_set() and started[1].is_set())
    assert [one.is_set() for one in started] == [True, True, False, False, False]
    threads.limit = 5
    until(lambda: all(one.is_set() for one in started))
    gate.set()
    assert [future.result(10) for future in futures] == list(range(5))
    threads.shutdown()


def test_an_idle_thread_is_used_again() -> None:
    threads = CallThreads(10)
    names = {threads.submit(lambda: threading.current_thread().name).result(10) for _ in range(20)}
    assert len(names) <= 2 and threads.threads <= 2
    threads.shutdown()


def test_what_a_task_raises_is_in_its_future_and_costs_no_thread() -> None:
    threads = CallThreads(1)

    def fail() -> None:
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        threads.submit(fail).result(10)
    assert threads.submit(lambda: 7).result(10) == 7
    threads.shutdown()


def test_a_lower_limit_ends_threads_as_they_become_free() -> None:
    threads = CallThreads(8)
    gate = threading.Event()
    futures = [threads.submit(gate.wait, 20) for _ in range(8)]
    until(lambda: threads.threads == 8)
    threads.limit = 2
    gate.set()
    for future in futures:
        future.result(10)
    for _ in range(20):
        threads.submit(lambda: None).result(10)
    until(lambda: threads.threads <= 2)
    threads.shutdown()


def test_after_shutdown_nothing_is_taken_and_what_waits_is_cancelled() -> None:
    threads = CallThreads(1)
    gate = threading.Event()
    running = threads.submit(gate.wait, 20)
    until(running.running)
    waiting = threads.submit(lambda: 1)
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 1)
    gate.set()
    assert running.result(10) and waiting.cancelled()

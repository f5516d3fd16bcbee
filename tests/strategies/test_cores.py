"""Work on all cores: the same results in the same order, and threads only where they are worth it."""

from __future__ import annotations

import threading

import pytest

from strategies import cores
from strategies.cores import WORTH_THREADS, on_all_cores


def test_the_results_are_in_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_cores", lambda: 3)
    items = list(range(50))
    for size in (0, WORTH_THREADS):
        assert on_all_cores(lambda item: item * item, items, size) == [i * i for i in items]
    assert on_all_cores(str, [], WORTH_THREADS) == []


def test_little_work_and_one_core_start_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def where(item: int) -> str:
        return threading.current_thread().name

    here = threading.current_thread().name
    monkeypatch.setattr(cores, "_cores", lambda: 2)
    assert on_all_cores(where, [1, 2], WORTH_THREADS - 1) == [here, here]
    assert here not in on_all_cores(where, [1, 2], WORTH_THREADS)
    monkeypatch.setattr(cores, "_cores", lambda: 1)
    assert on_all_cores(where, [1, 2], WORTH_THREADS) == [here, here]


def test_what_fails_is_raised_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_cores", lambda: 2)

    def fails(item: int) -> None:
        raise ValueError(str(item))

    with pytest.raises(ValueError, match="1"):
        on_all_cores(fails, [1, 2, 3], WORTH_THREADS)
    assert not [one for one in threading.enumerate() if one.name.startswith("cores")]

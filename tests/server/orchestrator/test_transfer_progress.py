"""What is told of transfers: only those that last, with their rate and what is left."""

from __future__ import annotations

from server.orchestrator.transfer_progress import DOWN, FORGOTTEN, UP, TransferProgress


def test_a_transfer_is_told_after_some_seconds_with_its_rate_and_rest() -> None:
    progress = TransferProgress()
    progress.moved(7, DOWN, 100_000, 900_000, 0.0)
    assert progress.told(1.0) == {}, "most are over before anybody looks"
    progress.moved(7, DOWN, 100_000, 800_000, 2.0)
    progress.moved(7, DOWN, 100_000, 700_000, 4.0)
    said = {"direction": DOWN, "left": 700_000, "rate": 50_000, "still": 0}
    assert progress.told(4.0) == {7: said}
    assert progress.told(44.0)[7]["still"] == 40
    assert progress.told(5.0 + FORGOTTEN) == {}


def test_what_is_sent_counts_when_it_is_here() -> None:
    progress = TransferProgress()
    for second in range(5):
        progress.moved(7, UP, 1000, 5000 - second * 1000, float(second))
    assert progress.told(4.0)[7]["rate"] == 1000


def test_a_transfer_that_is_done_is_told_no_more() -> None:
    progress = TransferProgress()
    progress.moved(7, UP, 1000, 1000, 0.0)
    progress.moved(7, UP, 1000, 0, 10.0)
    assert progress.told(10.0) == {}
    progress.moved(7, DOWN, 1000, 1000, 20.0)
    progress.ended(7)
    assert progress.told(30.0) == {}


def test_another_direction_is_another_transfer() -> None:
    progress = TransferProgress()
    progress.moved(7, DOWN, 1000, 1000, 0.0)
    progress.moved(7, UP, 1000, 1000, 100.0)
    assert progress.told(101.0) == {}


def test_a_node_that_says_nonsense_is_told_as_nothing_left() -> None:
    progress = TransferProgress()
    progress.moved(7, UP, 1000, -5, 0.0)
    assert progress.told(10.0)[7]["left"] == 0

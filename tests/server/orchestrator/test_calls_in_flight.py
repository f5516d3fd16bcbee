"""A key has its share of calls, and a body has its time."""

from __future__ import annotations

from server.orchestrator.calls_in_flight import CallsInFlight


class Call:
    def __init__(self) -> None:
        self.ended = False

    def cancel(self) -> None:
        self.ended = True


def test_a_key_has_its_share_and_another_has_its_own() -> None:
    calls = CallsInFlight(per_key=2)
    assert [calls.enter(b"a") for _ in range(3)] == [True, True, False]
    assert calls.enter(b"b")
    calls.leave(b"a")
    assert calls.enter(b"a") and not calls.enter(b"a")


def test_only_a_body_that_is_late_is_ended() -> None:
    now = [0.0]
    calls = CallsInFlight(clock=lambda: now[0])
    slow, quick = Call(), Call()
    with calls.body(slow, 10):
        with calls.body(quick, 10):
            now[0] = 9.0
            assert calls.end_late_bodies() == 0
        now[0] = 11.0
        assert calls.end_late_bodies() == 1
    assert (slow.ended, quick.ended) == (True, False)
    assert calls.end_late_bodies() == 0

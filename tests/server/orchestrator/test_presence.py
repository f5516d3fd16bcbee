"""A lost silo, a lost quorum and their return are told once each, while it lasts."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.observers.base import PresenceChange
from server.orchestrator import caretaker
from server.orchestrator.caretaker import read_status
from server.orchestrator.presence import Presence
from tests.faults.federation import until
from tests.security.test_renewed_admissions import Running


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An orchestrator with its caretaker, and two silos that are connected."""
    monkeypatch.setattr(caretaker, "CARE_SECONDS", 0.05)
    before = signal.getsignal(signal.SIGUSR1)
    with ExitStack() as stack:
        yield Running(tmp_path, stack)
    signal.signal(signal.SIGUSR1, before)


def test_a_running_orchestrator_tells_of_a_lost_quorum_and_its_return_at_once(
    running: Running,
) -> None:
    told: list[PresenceChange] = []
    presence = Presence(["silo-1", "silo-2"], 2, told.append)
    with running.care.watching(presence):
        until(lambda: presence._here is not None)
        running.server.revoke_key(running.federation.public["silo-2"])
        until(lambda: [one.quorum for one in told] == ["lost"])
        assert told[0].gone == ["silo-2"] and told[0].missing == ["silo-2"]
        until(lambda: (read_status(running.store)["quorum"] or {}).get("missing") == ["silo-2"])
    until(lambda: read_status(running.store)["quorum"] is None)


class Watched:
    def __init__(self, *silos: str, needed: int) -> None:
        self.told: list[PresenceChange] = []
        self.presence = Presence(silos, needed, self.told.append, lambda: 1_700_000_000.0)

    def sees(self, *silos: str) -> list[PresenceChange]:
        """Look once; return what is told of it."""
        before = len(self.told)
        self.presence.look(silos)
        return self.told[before:]


def test_each_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched("a", "b", "c", needed=2)
    assert watched.sees("a", "b", "c") == []
    assert watched.sees("a", "b") == [PresenceChange(["c"], [], "", 2, 2, ["c"])]
    assert watched.sees("a", "b") == []
    assert watched.presence.lacking() is None
    assert watched.sees("a") == [PresenceChange(["b"], [], "lost", 1, 2, ["b", "c"])]
    assert watched.sees("a") == []
    assert watched.presence.lacking() == {
        "needed": 2,
        "connected": 1,
        "missing": ["b", "c"],
        "since": "2023-11-14 22:13 UTC",
    }
    assert watched.sees("a", "c") == [PresenceChange([], ["c"], "back", 2, 2, ["b"])]
    assert watched.presence.lacking() is None
    assert caplog.text.count("MDW-412") == 1
    assert "as many silos are connected again" in caplog.text


def test_who_was_never_there_has_not_gone_and_a_stranger_does_not_count() -> None:
    watched = Watched("a", "b", "c", needed=2)
    assert watched.sees("a", "x", "y") == [PresenceChange([], [], "lost", 1, 2, ["b", "c"])]
    assert watched.sees("a", "b") == [PresenceChange([], [], "back", 2, 2, ["c"])]


def test_a_silo_that_comes_and_goes_is_told_each_time() -> None:
    watched = Watched("a", "b", needed=1)
    watched.sees("a", "b")
    assert [one.gone for one in watched.sees("a")] == [["b"]]
    assert [one.back for one in watched.sees("a", "b")] == [["b"]]
    assert [one.gone for one in watched.sees("a")] == [["b"]]

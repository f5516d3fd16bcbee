"""Messages to a webhook: what they say, and that no answer or silence costs the run anything."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.observers.base import PresenceChange
from server.observers.webhook import VARIABLE, Webhook, webhook
from server.run.result import RoundRecord, RunResult
from tests.server.observers.services import Service, service

ASKED = TrackingConf(webhook="environment")


def run_of(status: str = "running", **more: Any) -> RunResult:
    return RunResult("r1", "simulate", "digits", "fedavg", ["a", "b"], status=status, **more)


def events(at: Service) -> list[dict[str, Any]]:
    return [json.loads(body) for body in at.bodies]


def test_a_lost_silo_is_told_once_until_it_is_back() -> None:
    with service() as at:
        hook = Webhook(at.address)
        hook.run_started(run_of(), 9)
        lost = {"failed": {"b": "secret text of b"}, "codes": {"b": "MDW-330"}}
        hook.round_closed(RoundRecord(1, ["a", "b"], ["a"], **lost))
        hook.round_closed(RoundRecord(2, ["a", "b"], ["a"], **lost))
        hook.round_closed(RoundRecord(3, ["a", "b"], ["a", "b"]))
        hook.round_closed(RoundRecord(4, ["a", "b"], ["a"], **lost))
        hook.close()
    assert [(one["event"], one["round"], one["silo"], one["code"]) for one in events(at)] == [
        ("silo_lost", 1, "b", "MDW-330"),
        ("silo_lost", 4, "b", "MDW-330"),
    ]
    # Codes cross a border, and texts do not.
    assert b"secret" not in b"".join(at.bodies)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        ("finished", None, "finished after 7 rounds"),
        ("failed", {"code": "MDW-401", "message": "no"}, "failed after 7 rounds (MDW-401)"),
    ],
)
def test_the_end_of_a_run_is_told_however_it_ends(
    status: str, error: dict[str, str] | None, said: str
) -> None:
    with service() as at:
        hook = Webhook(at.address)
        hook.run_started(run_of(), 7)
        hook.run_finished(run_of(status, rounds=7, error=error, final={"accuracy": 0.9}))
        hook.close()
    (end,) = events(at)
    assert end["text"] == f"Meadow, run r1: {said}"
    assert (end["status"], end["code"]) == (status, error and error["code"])
    assert end["final"] == {"accuracy": 0.9}


def test_a_message_is_tried_again_and_then_given_up_without_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with service(503, 503, 200) as at, caplog.at_level(logging.INFO):
        hook = Webhook(at.address, pause=0.0)
        hook.run_started(run_of(), 1)
        hook.run_finished(run_of("finished"))
        hook.close()
    assert len(at.bodies) == 3
    assert caplog.messages == []
    with caplog.at_level(logging.INFO):
        hook = Webhook(at.address, pause=0.0)
        hook.run_finished(run_of("finished"))
        hook.close()
    assert caplog.messages == ["the webhook took no message of run_finished: ConnectError"]


def test_an_answer_that_leads_elsewhere_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    with service(307) as at, caplog.at_level(logging.WARNING):
        hook = Webhook(at.address, pause=0.0)
        hook.run_finished(run_of("finished"))
        hook.close()
    assert len(at.bodies) == 3
    assert caplog.messages == ["the webhook took no message of run_finished: 307"]


def test_numbers_that_are_not_finite_are_told_as_null() -> None:
    with service() as at:
        hook = Webhook(at.address)
        hook.run_finished(run_of("finished", final={"loss": float("nan")}))
        hook.close()
    assert events(at)[0]["final"] == {"loss": None}


@pytest.mark.parametrize("address", ["", "ftp://x", "file:///etc/passwd"])
def test_messages_need_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, address)
    with pytest.raises(ConfigError, match="MDW-132"):
        webhook(ASKED)


def test_nothing_is_sent_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "http://127.0.0.1:9")
    assert not isinstance(webhook(TrackingConf()), Webhook)


def test_who_has_gone_and_a_lost_quorum_are_told_while_the_round_is_open() -> None:
    with service() as at:
        hook = Webhook(at.address)
        hook.run_started(run_of(), 9)
        hook.presence(PresenceChange(["b"], [], "lost", 1, 2, ["b"]))
        hook.presence(PresenceChange([], ["b"], "back", 2, 2, []))
        hook.close()
    told = events(at)
    assert [one["event"] for one in told] == [
        "silo_gone",
        "quorum_lost",
        "silo_back",
        "quorum_back",
    ]
    assert told[1]["missing"] == ["b"] and told[1]["needed"] == 2
    assert "1 of the 2 silos that a round needs are connected" in told[1]["text"]

"""A message to somebody's webhook when a silo is lost and when a run ends, however it ends.

The address is in `MEADOW_WEBHOOK`, and nowhere in a configuration: it most often is a secret. What
is sent is JSON: `event`, `run`, `task`, `text` (a line for people, which chats show), and the
event's own fields. No text of an error and no metric of a single silo is in it.

    silo_gone     `silo`                      its connection was lost, in the middle of a round too
    silo_back     `silo`                      it is connected again
    quorum_lost   `connected`, `needed`, `missing`   fewer are connected than a round needs
    quorum_back   `connected`, `needed`, `missing`   there are enough again
    silo_lost     `round`, `silo`, `code`     the first round that a silo fails after it took part
    run_finished  `status`, `rounds`, `code`, `final` (the metrics of the test)

It is sent by a thread of its own, tried three times, and never followed elsewhere; an address that
does not answer costs the run nothing but `END_SECONDS` at its end.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from typing import Any, Final

import httpx

from conf.errors import ConfigError
from conf.schema import TrackingConf
from server.observers.base import Observer, PresenceChange
from server.run.result import RoundRecord, RunResult, finite

log = logging.getLogger(__name__)

VARIABLE: Final = "MEADOW_WEBHOOK"
TRIES: Final = 3
ANSWER_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 1.0
"""Between two tries."""
END_SECONDS: Final = 20.0
"""For what is left to be sent when the run ends: all tries of one message."""
MOST_WAITING: Final = 100
"""Messages that wait to be sent; more are dropped, and that is logged."""

Event = dict[str, Any]


def webhook_address(conf: TrackingConf) -> str | None:
    """Return where messages go; None where none are asked for.

    Raises ConfigError MDW-132 where they are asked for and the environment has no address.
    """
    if conf.webhook == "off":
        return None
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("https://", "http://")):
        raise ConfigError(
            "MDW-132",
            f"tracking.webhook=environment, and {VARIABLE} holds no http(s) address.",
            f"Set {VARIABLE} where the run is served, or leave tracking.webhook out.",
        )
    return address


def webhook(conf: TrackingConf) -> Observer:
    """Return who sends a run's messages, or an observer that does nothing; raises as
    `webhook_address`.
    """
    address = webhook_address(conf)
    return Observer() if address is None else Webhook(address)


class Webhook(Observer):
    """Sends a run's messages to one address."""

    def __init__(self, address: str, pause: float = PAUSE_SECONDS) -> None:
        # It logs each request with its address, which is a secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._address = address
        self._pause = pause
        self._run: Event = {}
        self._lost: set[str] = set()
        self._waiting: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._send_all, name="webhook", daemon=True)
        self._thread.start()

    def run_started(self, result: RunResult, rounds: int) -> None:
        """Note whose messages they are."""
        self._run = {"run": result.run_id, "task": result.task}

    def round_closed(self, record: RoundRecord) -> None:
        """Tell of each silo that took part before and failed now, once until it is back."""
        for silo, code in sorted(record.codes.items()):
            if silo not in self._lost:
                text = f"{silo} failed in round {record.round} ({code})"
                self._put("silo_lost", text, round=record.round, silo=silo, code=code)
        self._lost = (self._lost | set(record.codes)) - set(record.replied)

    def presence(self, change: PresenceChange) -> None:
        """Tell who has gone or is back, and whether a round could still close."""
        for silo in change.gone:
            self._put("silo_gone", f"{silo} is not connected any more", silo=silo)
        for silo in change.back:
            self._put("silo_back", f"{silo} is connected again", silo=silo)
        if change.quorum:
            self._put(
                f"quorum_{change.quorum}",
                f"{change.connected} of the {change.needed} silos that a round needs are connected",
                connected=change.connected,
                needed=change.needed,
                missing=change.missing,
            )

    def run_finished(self, result: RunResult) -> None:
        """Tell how the run ended."""
        code = (result.error or {}).get("code")
        because = f" ({code})" if code else ""
        self._put(
            "run_finished",
            f"{result.status.replace('_', ' ')} after {result.rounds} rounds{because}",
            status=result.status,
            rounds=result.rounds,
            code=code,
            final=finite(result.final),
        )

    def close(self) -> None:
        """Wait some seconds for what is left to be sent."""
        if not self._thread.is_alive():
            return
        try:
            self._waiting.put(None, timeout=END_SECONDS)
        except queue.Full:
            log.warning("messages to the webhook were not sent in %.0f s", END_SECONDS)
            return
        self._thread.join(END_SECONDS)

    def _put(self, event: str, text: str, **fields: Any) -> None:
        line = f"Meadow, run {self._run.get('run')}: {text}"
        try:
            self._waiting.put_nowait({"event": event, **self._run, "text": line, **fields})
        except queue.Full:
            log.warning("a message to the webhook is dropped: %d are waiting", MOST_WAITING)

    def _send_all(self) -> None:
        while (event := self._waiting.get()) is not None:
            self._send(event)

    def _send(self, event: Event) -> None:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._pause)
            failed = self._failure(event)
            if failed is None:
                return
        log.warning("the webhook took no message of %s: %s", event["event"], failed)

    def _failure(self, event: Event) -> str | None:
        """Send once; return why it was not taken, without the address."""
        try:
            # The answer is not read, and leads nowhere else.
            with httpx.stream(
                "POST", self._address, json=event, timeout=ANSWER_SECONDS, follow_redirects=False
            ) as answer:
                return None if answer.is_success else str(answer.status_code)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__

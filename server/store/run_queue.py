"""The runs that an orchestrator has been asked for, in its store: one immutable request each, and how it ended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from conf.errors import ConfigError, Interrupted
from conf.parse import from_plain
from conf.schema import Conf
from conf.validate import validate
from server.store.base import Store, StoreMissing

REQUESTS: Final = "queue/requests/"
CANCELLED: Final = "queue/cancelled/"
ENDED: Final = "queue/ended/"
RUN_ID: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._=-]{0,98}[A-Za-z0-9_=-])?")


@dataclass(frozen=True)
class Request:
    """One run asked for: its id, its resolved configuration as plain values, and the command that asked."""

    name: str
    run_id: str
    conf: dict[str, Any]
    command: str = ""

    def checked(self) -> Conf:
        """Return the configuration, held to this tree's own schema; raises ConfigError for anything else."""
        where = f"the request for {self.run_id}"
        conf = from_plain(Conf, self.conf, where=where)
        conf.run.name, conf.run.resume = self.run_id, None
        validate(conf, lambda key: where)
        return conf


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `RunResult.status` or cancelled, why, the exit status it stands for, where its files are."""

    status: str
    reason: str = ""
    exit: int = 0
    folder: str = ""


CANCELLED_OUTCOME: Final = Outcome("cancelled", exit=Interrupted.exit_status)


@dataclass(frozen=True)
class RunQueue:
    """Requests in the order in which they were made."""

    store: Store
    clock: Callable[[], float] = time.time

    def submit(self, run_id: str, conf: Conf, command: str = "") -> Request:
        """Add a run; one that has ended once more, to go on from its last checkpoint (`run.resume`), if it has any.

        Raises ConfigError MDW-187 where the id is malformed, is not done yet, or was used before by another run.
        """
        if not RUN_ID.fullmatch(run_id):
            raise ConfigError(
                "MDW-187", f"{run_id!r} can't name a run.", "Use letters, digits and . _ = -."
            )
        if (before := self._latest(run_id)) is not None:
            if self._ended(before) is None:
                raise ConfigError(
                    "MDW-187",
                    f"The run {run_id} has not ended.",
                    f"Wait: meadow wait run={run_id}.",
                )
            if conf.run.resume is None and self.store.list(f"runs/{run_id}/"):
                hint = f"Choose another run.name, or go on with run.resume={run_id}."
                raise ConfigError("MDW-187", f"The run {run_id} was submitted before.", hint)
        request = Request(
            f"{int(self.clock() * 1000):014d}.{run_id}", run_id, asdict(conf), command
        )
        self.store.put_if_absent(REQUESTS + request.name, json.dumps(asdict(request)).encode())
        return request

    def all(self) -> list[Request]:
        """Return every request, the oldest first."""
        return [Request(**json.loads(self.store.read(name))) for name in self.store.list(REQUESTS)]

    def next(self) -> Request | None:
        """Return the oldest request that has not ended, or None."""
        ended = set(self.store.list(ENDED))
        waiting = (
            name
            for name in self.store.list(REQUESTS)
            if ENDED + name.removeprefix(REQUESTS) not in ended
        )
        name = next(waiting, None)
        return Request(**json.loads(self.store.read(name))) if name is not None else None

    def ended(self, request: Request, outcome: Outcome) -> None:
        """Note how a run ended, so that it is not taken up again."""
        self.store.replace(ENDED + request.name, json.dumps(asdict(outcome)).encode())

    def outcome(self, run_id: str) -> Outcome | None:
        """Return how a run ended, None while it has not; raises ConfigError MDW-183 where it was never asked for."""
        request = self._latest(run_id)
        if request is None:
            known = ", ".join(one.run_id for one in self.all()) or "none"
            raise ConfigError(
                "MDW-183", f"The run {run_id} was never submitted here.", f"Submitted: {known}."
            )
        return self._ended(request)

    def cancel(self, run_id: str, live: bool) -> None:
        """End a run that waits or is in progress; a `live` orchestrator is asked and sees to it."""
        request = self._latest(run_id)
        if request is None or self._ended(request) is not None:
            return
        if live:
            self.store.put_if_absent(CANCELLED + request.name, b"{}")
        else:
            self.ended(request, CANCELLED_OUTCOME)

    def is_cancelled(self, request: Request) -> bool:
        """Return whether somebody asked for the end of a run."""
        return CANCELLED + request.name in self.store.list(CANCELLED)

    def _latest(self, run_id: str) -> Request | None:
        return next((request for request in reversed(self.all()) if request.run_id == run_id), None)

    def _ended(self, request: Request) -> Outcome | None:
        try:
            return Outcome(**json.loads(self.store.read(ENDED + request.name)))
        except StoreMissing:
            return None

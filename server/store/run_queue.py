"""The runs that an orchestrator has been asked for, in its store: one immutable request each, and
how it ended.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from azureml_jobs.storage.base import Store, StoreMissing
from conf.errors import CheckpointError, ConfigError, Interrupted
from conf.parse import from_plain
from conf.schema import Conf
from conf.targets.asked import check_asked
from conf.validate import validate
from conf.versions import Format
from server.store.layout import check
from strategies.wire.run_config import OUTSIDE

log = logging.getLogger(__name__)

REQUESTS: Final = "queue/requests/"
CANCELLED: Final = "queue/cancelled/"
BEGUN: Final = "queue/begun/"
ENDED: Final = "queue/ended/"
STATES: Final = "queue/states/"
LONGEST_STATE: Final = 40
"""Characters of a job's state, as whoever waits for a run tells it."""
REQUEST_FORMAT: Final = Format("request", 1, fix="Submit the run again under another name.")
OUTCOME_FORMAT: Final = Format("record of how a run ended", 1)
_ITS_OWN_FAULT: Final = ("MDW-505", "MDW-506", "MDW-510", "MDW-514", "MDW-517")
"""Of a request that can't be read; any other is the store's, and may be over in a moment."""
LONGEST_COMMAND: Final = 4000
"""Characters of the command that asked; a longer one is cut where it is read."""
RUN_ID: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._=-]{0,98}[A-Za-z0-9_=-])?")


@dataclass(frozen=True)
class Request:
    """One run asked for: its id, its resolved configuration as plain values, and the command that
    asked.
    """

    name: str
    run_id: str
    conf: dict[str, Any]
    command: str = ""

    def checked(self, allowed: Sequence[str] = ()) -> Conf:
        """Return the configuration, held to this tree's own schema, and to the code that the
        orchestrator's owner has `allowed`.

        Raises ConfigError for anything else, MDW-115 for other code.
        """
        where = f"the request for {self.run_id}"
        conf = from_plain(Conf, self.conf, where=where)
        conf.run.name, conf.run.resume = self.run_id, None
        check_asked(conf, allowed)
        validate(conf, lambda key: where)
        return conf


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `RunResult.status` or cancelled, why, the exit status it stands for, where
    its files are.
    """

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
        """Add a run; one that has ended once more, to go on from its last checkpoint
        (`run.resume`), if it has any.

        Raises ConfigError MDW-187 where the id is malformed, is not done yet, or was used before by
        another run.
        """
        self.check_free(run_id, conf)
        request = Request(
            f"{int(self.clock() * 1000):014d}.{run_id}", run_id, _as_asked(conf), command
        )
        record = REQUEST_FORMAT.stamp | asdict(request)
        self.store.put_if_absent(REQUESTS + request.name, json.dumps(record).encode())
        return request

    def check_free(self, run_id: str, conf: Conf) -> None:
        """Raise ConfigError MDW-187 where a run of that name could not be added."""
        if not RUN_ID.fullmatch(run_id):
            raise ConfigError(
                "MDW-187", f"{run_id!r} can't name a run.", "Use letters, digits and . _ = -."
            )
        check(self.store)
        if (before := self._latest(run_id)) is not None:
            if self._ended(before) is None:
                raise ConfigError(
                    "MDW-187",
                    f"The run {run_id} has not ended.",
                    f"Wait: meadow wait run={run_id}.",
                )
            begun = BEGUN + run_id in self.store.list(BEGUN)
            if conf.run.resume is None and begun:
                hint = f"Choose another run.name, or go on with run.resume={run_id}."
                raise ConfigError("MDW-187", f"The run {run_id} was submitted before.", hint)

    def all(self) -> list[Request]:
        """Return every request that this Meadow reads, the oldest first; any other is logged."""
        requests = []
        for name in self.store.list(REQUESTS):
            try:
                requests.append(self._request(name))
            except CheckpointError as error:
                log.error("%s", error)
        return requests

    def next(self) -> Request | None:
        """Return the oldest request that has not ended, or None.

        One that can't be read, or is of another version, has ended by that: the others must not
        wait for it.
        """
        ended = {name.removeprefix(ENDED) for name in self.store.list(ENDED)}
        for name in self.store.list(REQUESTS):
            short = name.removeprefix(REQUESTS)
            if short in ended:
                continue
            try:
                return self._request(name)
            except CheckpointError as error:
                if error.code not in _ITS_OWN_FAULT:
                    raise
                log.error("%s", error)
                self._end(short, Outcome("failed", str(error), error.exit_status))
        return None

    def begins(self, request: Request) -> None:
        """Note that a run is about to leave something, so that its name is not used for another."""
        self.store.put_if_absent(BEGUN + request.run_id, b"{}")

    def ended(self, request: Request, outcome: Outcome) -> None:
        """Note how a run ended, so that it is not taken up again."""
        self._end(request.name, outcome)

    def outcome(self, run_id: str) -> Outcome | None:
        """Return how a run ended, None while it has not.

        Raises ConfigError MDW-183 where it was never asked for.
        """
        request = self._latest(run_id)
        if request is None:
            known = ", ".join(one.run_id for one in self.all()) or "none"
            raise ConfigError(
                "MDW-183", f"The run {run_id} was never submitted here.", f"Submitted: {known}."
            )
        return self._ended(request)

    def forget_reason(self, run_id: str) -> None:
        """Delete the text of why a run ended; its status and exit status stay."""
        request = self._latest(run_id)
        outcome = self._ended(request) if request is not None else None
        if request is not None and outcome is not None and outcome.reason:
            self._end(request.name, replace(outcome, reason=""))

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

    def tell_states(self, run_id: str, states: Mapping[str, str], beat: int) -> None:
        """Tell the orchestrator in which states silos' jobs are, as who waits for a run sees them.

        `beat` rises with each call, so that an old note is known by standing still.
        """
        note = {"beat": beat, "states": dict(states)}
        self.store.replace(STATES + run_id, json.dumps(note).encode())

    def states(self, run_id: str) -> tuple[int, dict[str, str]]:
        """Return what was told of silos' jobs, and its beat; nothing where nothing readable was."""
        try:
            note = json.loads(self.store.read(STATES + run_id))
            told = {str(silo): str(state) for silo, state in dict(note["states"]).items()}
            beat = int(note["beat"])
        except (StoreMissing, ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return 0, {}
        return beat, {silo: state for silo, state in told.items() if len(state) <= LONGEST_STATE}

    def _end(self, name: str, outcome: Outcome) -> None:
        record = OUTCOME_FORMAT.stamp | asdict(outcome)
        self.store.replace(ENDED + name, json.dumps(record).encode())

    def _request(self, name: str) -> Request:
        """Read a request.

        Whoever may ask for a run has written it, so what it says of itself must be what its name
        says: it names folders and records. Raises CheckpointError MDW-506 for a damaged one,
        MDW-505 for one of another version.
        """
        raw = REQUEST_FORMAT.loads(self.store.read(name), name)
        with REQUEST_FORMAT.reading(name):
            request = Request(
                name=str(raw["name"]),
                run_id=str(raw["run_id"]),
                conf=dict(raw["conf"]),
                command=" ".join(str(raw["command"])[:LONGEST_COMMAND].split()),
            )
            if REQUESTS + request.name != name or _run_of(name) != request.run_id:
                raise ValueError("it has the name of another")
            if not RUN_ID.fullmatch(request.run_id):
                raise ValueError("its run has no name")
            return request

    def _latest(self, run_id: str) -> Request | None:
        """Return the last request for a run, found by its name: one that can't be read is an error
        only here.
        """
        names = [name for name in self.store.list(REQUESTS) if _run_of(name) == run_id]
        return self._request(names[-1]) if names else None

    def _ended(self, request: Request) -> Outcome | None:
        name = ENDED + request.name
        try:
            data = self.store.read(name)
        except StoreMissing:
            return None
        raw = OUTCOME_FORMAT.loads(data, name)
        with OUTCOME_FORMAT.reading(name):
            return Outcome(
                status=str(raw["status"]),
                reason=str(raw["reason"]),
                exit=int(raw["exit"]),
                folder=str(raw["folder"]),
            )


def _as_asked(conf: Conf) -> dict[str, Any]:
    """Return a configuration as plain values, without where code lies on the machine that asks."""
    plain = asdict(conf)
    for group in OUTSIDE:
        if "target" in plain[group]:
            plain[group]["target"] = ""
    return plain


def _run_of(name: str) -> str:
    """Return the run's id in a request's name: `queue/requests/<milliseconds>.<run id>`."""
    return name.removeprefix(REQUESTS).partition(".")[2]

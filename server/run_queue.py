"""The runs that an orchestrator has been asked for, in its store: one immutable request each, and how it ended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from conf.errors import ConfigError
from conf.plain import build
from conf.schema import Conf
from conf.validate import validate
from server.store import Store

REQUESTS: Final = "queue/requests/"
ENDED: Final = "queue/ended/"
RUN_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_=-]{0,99}")


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
        conf = build(Conf, self.conf, where=where)
        conf.run.name, conf.run.resume = self.run_id, None
        validate(conf, lambda key: where)
        return conf


@dataclass(frozen=True)
class RunQueue:
    """Requests in the order in which they were made."""

    store: Store
    clock: Callable[[], float] = time.time

    def submit(self, run_id: str, conf: Conf, command: str = "") -> Request:
        """Add a run; raises ConfigError MDW-187 where the id is malformed or was asked for before."""
        if not RUN_ID.fullmatch(run_id):
            raise ConfigError("MDW-187", f"{run_id!r} can't name a run.", "Use letters, digits and _ = -.")
        if any(request.run_id == run_id for request in self.all()):
            raise ConfigError("MDW-187", f"The run {run_id} was submitted before.", "Choose another run.name.")
        request = Request(f"{int(self.clock() * 1000):014d}.{run_id}", run_id, asdict(conf), command)
        self.store.put_if_absent(REQUESTS + request.name, json.dumps(asdict(request)).encode())
        return request

    def all(self) -> list[Request]:
        """Return every request, the oldest first."""
        return [Request(**json.loads(self.store.read(name))) for name in self.store.list(REQUESTS)]

    def next(self) -> Request | None:
        """Return the oldest request that has not ended, or None."""
        ended = set(self.store.list(ENDED))
        return next((request for request in self.all() if ENDED + request.name not in ended), None)

    def ended(self, request: Request, status: str, reason: str = "") -> None:
        """Note how a run ended (`RunResult.status`), so that it is not taken up again."""
        self.store.replace(ENDED + request.name, json.dumps({"status": status, "reason": reason}).encode())

    def status(self, run_id: str) -> str | None:
        """Return how a run ended, `waiting` while it has not, or None where it was never asked for."""
        for request in self.all():
            if request.run_id == run_id:
                name = ENDED + request.name
                found = name in self.store.list(ENDED)
                return str(json.loads(self.store.read(name))["status"]) if found else "waiting"
        return None

"""For which silos a run waits at its start, and how long.

`run.start_timeout` is for a silo whose job runs: from a process that runs to one that is connected.
On Azure ML a job first waits for a machine and for its image, which takes minutes to hours and says
nothing about the silo. So there its time begins when somebody who sees the job says that it runs, or
when it was connected once; until then `federation.orchestrator.queue_timeout` is its limit.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

log = logging.getLogger(__name__)

QUIET_SECONDS: Final = 5.0
"""From the start on, in which silos come by themselves and nothing is said."""
AGAIN_SECONDS: Final = 300.0
"""After which the same is said again: a log that is silent looks like one that hangs."""
RUNNING: Final = "Running"
"""The one state of a job, in Azure ML's words, in which its process is there."""
NEVER_SEEN: Final = "not connected yet; its job may be queued, or its image being built"
GONE: Final = "was connected, and has gone"


@dataclass
class StartPatience:
    """Of one run, in seconds of the clock that `left` is given.

    `queue_timeout` is 0 where a silo's process runs as soon as it was asked for. `met` are the
    silos that were connected since this orchestrator began.
    """

    start_timeout: float
    queue_timeout: float = 0.0
    met: set[str] = field(default_factory=set)
    _running_since: dict[str, float] = field(default_factory=dict)

    def left(
        self,
        missing: Collection[str],
        spare: int,
        states: Mapping[str, str],
        started: float,
        now: float,
    ) -> float:
        """Return how long `missing` silos are still waited for, when all but `spare` of them are
        needed; 0 or less where it is over.

        `states` are those of silos' jobs, as far as somebody has told; `started` is when the run
        was taken up.
        """
        ends = sorted(self._end(silo, states.get(silo), started, now) for silo in missing)
        # The run may do without the first `spare` of them.
        return ends[min(spare, len(ends) - 1)] - now if ends else float("inf")

    def why(self, silo: str, states: Mapping[str, str]) -> str:
        """Return in a few words why a silo is waited for."""
        if silo in self.met:
            return GONE
        if self.queue_timeout == 0:
            return "not connected yet"
        return states.get(silo, NEVER_SEEN)

    def _end(self, silo: str, state: str | None, started: float, now: float) -> float:
        if silo in self.met or self.queue_timeout == 0:
            return started + self.start_timeout
        if state == RUNNING:
            since = self._running_since.setdefault(silo, now)
            return since + self.start_timeout
        self._running_since.pop(silo, None)
        return started + max(self.queue_timeout, self.start_timeout)


class WaitingLines:
    """Lines such as `waiting for north: Queued`, when something has changed, and now and then."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._said: dict[str, str] = {}
        self._when = float("-inf")

    def say(self, waiting: Mapping[str, str], now: float) -> None:
        """Log for whom a run waits and why, where that is new or was said long ago."""
        if self._began is None:
            self._began = now
        if now - self._began < QUIET_SECONDS or not waiting:
            return
        if dict(waiting) == self._said and now - self._when < AGAIN_SECONDS:
            return
        self._said = dict(waiting)
        self._when = now
        log.info("waiting for %s", "; ".join(f"{silo}: {why}" for silo, why in waiting.items()))

"""Jobs that do not run yet: each waits for a machine and for its image, which is told line by line.

A run is asked for when all jobs run. Whoever waits for one that was asked for earlier tells the
orchestrator in which states the silos' jobs are, so that its time begins when they run.

    MDW-821 a job ended before it ran
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from azureml_jobs.backends.base import ORCHESTRATOR, Backend, Job
from azureml_jobs.cli.asking_again import Patience
from azureml_jobs.cli.federation import Federation
from conf.errors import AzureError, MeadowError

Echo = Callable[[str], None]
RUNNING = "Running"
"""Azure ML's word for a job whose process is there."""
LOOK_SECONDS = 30.0
"""Between two looks at jobs of other workspaces while a run is waited for."""


class StateLines:
    """Lines such as `waiting for north: Queued`, one for each change."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._said: dict[str, str] = {}

    def say(self, part: str, state: str) -> None:
        """Say in which state a part's job is, unless it was said."""
        if self._said.get(part) == state:
            return
        if state != RUNNING:
            self._echo(f"waiting for {part}: {state}")
        elif part in self._said:
            self._echo(f"{part} runs")
        self._said[part] = state


def wait_until_running(backend: Backend, parts: Sequence[str], echo: Echo) -> None:
    """Return when the jobs of all parts run; raises AzureError MDW-821 for one that ended before."""
    if backend.files_here:
        # On this machine a job runs when it was started.
        return
    lines = StateLines(echo)
    left = list(parts)
    patience = Patience(backend)
    while left:
        for part in list(left):
            try:
                job = backend.job(part)
            except MeadowError as error:
                patience.bear(error)
                continue
            patience.answered()
            if job is None or not job.live:
                raise _ended_early(backend, part, job)
            lines.say(part, job.state)
            if job.state == RUNNING:
                left.remove(part)
        if left:
            time.sleep(patience.pause())


class Starting:
    """Looks at silos' jobs while a run is waited for, until all of them run."""

    def __init__(self, federation: Federation, run_id: str, echo: Echo) -> None:
        self._federation = federation
        self._run_id = run_id
        self._lines = StateLines(echo)
        here = federation.backend.files_here
        self._silos = [] if here else [p for p in federation.parts if p != ORCHESTRATOR]
        self._states: dict[str, str] = {}
        self._beat = 0
        self._next_look = 0.0

    def look(self) -> None:
        """Say what has changed, and tell the orchestrator; what can't be seen is left out."""
        if not self._silos or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        for silo in list(self._silos):
            try:
                job = self._federation.backend.job(silo)
            except MeadowError:
                # Another owner's workspace: its state is not this caller's to see.
                self._silos.remove(silo)
                continue
            if job is not None and job.live:
                self._states[silo] = job.state
                self._lines.say(silo, job.state)
        self._beat += 1
        with suppress(MeadowError):
            # Who may not write to the queue waits all the same.
            self._federation.queue.tell_states(self._run_id, self._states, self._beat)
        if all(self._states.get(silo) == RUNNING for silo in self._silos):
            self._silos = []


def _ended_early(backend: Backend, part: str, job: Job | None) -> AzureError:
    state = job.state if job is not None else "no job"
    said = ""
    if job is not None:
        with suppress(MeadowError):
            said = backend.last_words(job)
    hint = (
        f"See meadow logs as={'silo:' if part != ORCHESTRATOR else ''}{part}, and launch it again."
    )
    return AzureError("MDW-821", f"The job of {part} ended before it ran: {state}. {said}", hint)

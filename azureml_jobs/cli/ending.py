"""Ending a federation's jobs: asked through the store first, so that they end by themselves.

An orchestrator that is asked tells its silos that the federation is over, and all end with status 0:
Azure ML shows them as Completed. Only what does not answer is cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from azureml_jobs.backends.base import ORCHESTRATOR, Job, silos_first
from azureml_jobs.cli.asking_again import Patience
from azureml_jobs.cli.federation import Federation
from azureml_jobs.cli.starting import RUNNING
from conf.errors import MeadowError

ANSWER_SECONDS: Final = 120.0
"""For jobs to end by themselves: seconds for the processes, and a minute for Azure ML to note it."""


def end_jobs(federation: Federation, parts: Sequence[str]) -> list[Job]:
    """End the jobs of these parts, and return those that were live, as they ended: silos first."""
    backend = federation.backend
    if backend.files_here or ORCHESTRATOR not in parts:
        return backend.stop(parts)
    live = _live(federation, parts)
    if ask_to_end(federation, live):
        _wait_for_ends(federation, [part for part in live if live[part].state == RUNNING])
    ended = {job.part: job for job in backend.stop(list(_live(federation, list(live))))}
    for part in live:
        if part not in ended:
            with suppress(MeadowError):
                ended[part] = backend.job(part) or live[part]
    return [ended[part] for group in silos_first(list(live)) for part in group if part in ended]


def ask_to_end(federation: Federation, live: dict[str, Job]) -> bool:
    """Ask the orchestrator through its store to end the federation; return whether it may hear."""
    from server.orchestrator.caretaker import ask_to_end

    job = live.get(ORCHESTRATOR)
    if job is None or job.state != RUNNING:
        return False
    try:
        return ask_to_end(federation.store)
    except MeadowError:
        # Its job is cancelled then, which needs no right at the store.
        return False


def _live(federation: Federation, parts: Sequence[str]) -> dict[str, Job]:
    """Return the jobs of parts that are live; one that can't be seen is not ended either."""
    found = {}
    for part in parts:
        with suppress(MeadowError):
            job = federation.backend.job(part)
            if job is not None and job.live:
                found[part] = job
    return found


def _wait_for_ends(federation: Federation, parts: list[str]) -> None:
    patience = Patience(federation.backend)
    end = time.monotonic() + ANSWER_SECONDS
    while parts and time.monotonic() < end:
        parts = list(_live(federation, parts))
        if parts:
            time.sleep(min(patience.pause(), max(0.0, end - time.monotonic())))

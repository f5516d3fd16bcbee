"""One run of a federation on Azure ML: asked for, waited for, shown, brought home, cancelled."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from azureml_jobs.cli.azure_arguments import ORCHESTRATOR, Asked
from conf.errors import AzureError, CheckpointError, MeadowError

if TYPE_CHECKING:
    from azureml_jobs.cli.azure_watch import JobLog

POLL_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 300.0
"""For which a wait bears that Azure is not reached; a training goes on meanwhile."""
TIMEOUT_STATUS, NOBODY_STATUS, SIGNED_OUT_STATUS = 124, 125, 126
UNREACHED: Final = ("MDW-800", "MDW-515")


class Unanswered(Exception):
    """A run that goes on can't be seen any more: signed out (None), or an error of Azure."""

    def __init__(self, error: MeadowError | None) -> None:
        super().__init__()
        self.error = error


def submitted(asked: Asked) -> str:
    """Give a run to the orchestrator and return its id."""
    from azureml_jobs.backends.local_launch import submit as ask

    return ask(asked.conf, asked.command, asked.queue)


def waited(asked: Asked, run_id: str, seconds: float, log: JobLog | None = None) -> int:
    """Return a run's exit status once it has ended, or why it is waited for no longer; show a job's lines meanwhile."""
    end, answered = time.monotonic() + seconds, time.monotonic()
    while True:
        try:
            at_work = alive(asked)  # asked before the last look
            outcome = asked.queue.outcome(run_id)
            for line in log.lines() if log else ():
                print(line, flush=True)
            answered = time.monotonic()
        except (AzureError, CheckpointError) as error:
            if error.code == "MDW-803":
                print(f"error {error}", file=sys.stderr)
                return SIGNED_OUT_STATUS
            if error.code not in UNREACHED or time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        else:
            if outcome is not None:
                print(
                    f"run {run_id}: {outcome.status}"
                    + (f": {outcome.reason}" if outcome.reason else "")
                )
                return int(outcome.exit)
            if not at_work:
                print(
                    "No orchestrator is at work; launched again it goes on with the run.",
                    file=sys.stderr,
                )
                return NOBODY_STATUS
        if time.monotonic() >= end:
            print(f"The run {run_id} has not ended in {seconds:.0f} s.", file=sys.stderr)
            return TIMEOUT_STATUS
        time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))


def seen_through(asked: Asked, run_id: str) -> int:
    """Show the orchestrator's lines until a run has ended, and bring it home; return its exit status."""
    from azureml_jobs.backends.azure import download as bring
    from azureml_jobs.cli.azure_watch import JobLog

    try:
        log = None
        for job in asked.federation.jobs([], server=True):
            log = JobLog(asked.federation.workspace_of(job), job.name, ORCHESTRATOR)
        found = waited(asked, run_id, float("inf"), log)
        if found == 0:
            bring(asked.store, run_id, Path(asked.conf.run.output))
            print(f"result: {Path(asked.conf.run.output) / run_id}")
    except (AzureError, CheckpointError) as error:
        raise Unanswered(error) from None
    if found == SIGNED_OUT_STATUS:
        raise Unanswered(None)
    return found


def cancel(asked: Asked, run_id: str) -> None:
    """End a run, or ask the live orchestrator for it; raises ConfigError MDW-183 for one that was never asked for."""
    asked.queue.outcome(run_id)
    asked.queue.cancel(run_id, live=alive(asked))


def alive(asked: Asked) -> bool:
    """Return whether an orchestrator is at work, as far as the caller may see."""
    try:
        return any(job.live for job in asked.federation.jobs([], server=True))
    except AzureError as error:
        if error.code == "MDW-801":  # whoever reads the store alone still learns how a run ended
            return True
        raise

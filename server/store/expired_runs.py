"""The lifetimes of what ended runs have left, as the orchestrator's owner sets them, and what is
forgotten by hand.

    MDW-526 a run that has not ended can't be forgotten
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from azureml_jobs.storage.base import Store
from azureml_jobs.storage.prefix import PrefixStore
from conf.errors import CheckpointError, MeadowError
from conf.schema.lifetimes import RunLifetimes
from server.run.ledger import stored_lines
from server.run.run_forgetting import ERRORS, KINDS, Forgotten, due, forget_run
from server.store.run_queue import RunQueue

log = logging.getLogger(__name__)


def forget_stored_run(
    store: Store, queue: RunQueue, run_id: str, folder: Path, kinds: Collection[str], why: str
) -> Forgotten:
    """Delete some kinds of what a run has left in an orchestrator's store and in its folder.

    Raises CheckpointError MDW-526 where the run has not ended, ConfigError MDW-183 where it was
    never submitted.
    """
    if queue.outcome(run_id) is None:
        hint = f"Wait for its end, or end it: meadow stop run={run_id}."
        raise CheckpointError("MDW-526", f"The run {run_id} has not ended.", hint)
    done = forget_run(run_id, folder, PrefixStore(store, f"runs/{run_id}/"), kinds, why)
    if ERRORS in kinds:
        queue.forget_reason(run_id)
    return done


def expire(
    store: Store, queue: RunQueue, output: Path, lifetimes: RunLifetimes, now: float
) -> None:
    """Delete what has outlived its lifetime, of every run that has ended; `now` in seconds since
    1970.

    What can't be deleted is told, and tried again the next time.
    """
    days = {kind: getattr(lifetimes, kind) for kind in KINDS}
    if all(lifetime is None for lifetime in days.values()):
        return
    for run_id in dict.fromkeys(request.run_id for request in queue.all()):
        try:
            if queue.outcome(run_id) is None:
                continue
            lines = stored_lines(PrefixStore(store, f"runs/{run_id}/"), run_id)
            kinds = due(lines, days, now)
            if not kinds:
                continue
            done = forget_stored_run(store, queue, run_id, output / run_id, kinds, "lifetime")
            if done.files:
                log.info("the run %s has outlived a lifetime: %s", run_id, done)
        except MeadowError as error:
            log.warning("what is left of the run %s could not be deleted: %s", run_id, error)

"""For how long what a run leaves is kept, by kind of file, as the owner of each side sets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from conf.fields import number

MOST_DAYS: Final = 36500


@dataclass
class RunLifetimes:
    """At the orchestrator: days after a run's end; null keeps until `meadow forget`.

    What proves the run (ledger, history, result, configuration) and its model have none.
    """

    checkpoints: float | None = number(
        None, at_least=0, at_most=MOST_DAYS, help="days for its checkpoints; null = until forgotten"
    )
    logs: float | None = number(
        None, at_least=0, at_most=MOST_DAYS, help="days for its logs; null = until forgotten"
    )
    errors: float | None = number(
        None,
        at_least=0,
        at_most=MOST_DAYS,
        help="days for the text of the error it ended with; null = until forgotten",
    )
    job_logs: float | None = number(
        None,
        at_least=0,
        at_most=MOST_DAYS,
        help="days for what its job on this machine has said; null = until forgotten",
    )


@dataclass
class SiloLifetimes:
    """At a silo: days after they were written; null keeps until `meadow forget`.

    What it keeps of the ledger has none.
    """

    updates: float | None = number(
        None,
        at_least=0,
        at_most=MOST_DAYS,
        help="days for its last update, which saves a training after a crash; null = until forgotten",
    )
    states: float | None = number(
        None,
        at_least=0,
        at_most=MOST_DAYS,
        help="days for what its algorithm remembers of a run, but the last one; null = until forgotten",
    )
    job_logs: float | None = number(
        None,
        at_least=0,
        at_most=MOST_DAYS,
        help="days for what its job on this machine has said; null = until forgotten",
    )

"""One rule of patience and quorum, for the start of a run, its restart, and every phase of a round.

A phase closes when all that were asked have answered or failed; at `run.round_timeout`, or
`run.grace` after the quorum, with the quorum; otherwise it waits `run.reconnect_patience` for silos
that are lost or late, which are asked again when they come back.
"""

from __future__ import annotations

from typing import Final

from conf.schema import RunConf
from server.round.exchange import Closing


def quorum_of(run: RunConf, cohort: int) -> int:
    """Return how many silos of a cohort must answer: `run.quorum`, or more than half."""
    return run.quorum or cohort // 2 + 1


def closing_of(run: RunConf, cohort: int, asked: int | None = None) -> Closing:
    """Return when a phase of a round closes.

    `asked` is how many silos of the cohort were asked, where a strategy may ask fewer: of those
    that were not nobody is waited for.
    """
    quorum = quorum_of(run, cohort)
    if asked is not None:
        quorum = min(quorum, asked)
    return Closing(run.round_timeout, quorum, run.grace, run.reconnect_patience)


RETURN_SECONDS: Final = 60.0
"""After a restart, for silos that were there to find their way back; only then a quorum will do."""


def settling_at_start(run: RunConf, closed: int) -> float:
    """Return for how many seconds all silos of a run are waited for before it goes on after `closed`
    rounds, though fewer would do.

    The orchestrator was away and not they: a round that begins at once would leave out whoever has
    not called again yet.
    """
    return 0.0 if closed == 0 else min(RETURN_SECONDS, run.start_timeout)


def needed_at_start(run: RunConf, silos: int, closed: int) -> int:
    """Return how many of a run's silos must be connected before it goes on after `closed` rounds.

    At first `run.start_quorum`, or all: a silo that never comes is a mistake to be told before
    anything is trained. Later only as many as a round needs: the others were there, and may be
    back at any time.
    """
    needed = run.start_quorum or silos
    if closed == 0:
        return needed
    return min(needed, quorum_of(run, run.cohort or silos))

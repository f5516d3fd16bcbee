"""One rule of patience and quorum, for start, restart, training and evaluation."""

from __future__ import annotations

import pytest

from conf.schema import RunConf
from server.round.exchange import Closing
from server.round.patience import (
    RETURN_SECONDS,
    closing_of,
    needed_at_start,
    quorum_of,
    settling_at_start,
)


@pytest.mark.parametrize(("cohort", "quorum"), [(1, 1), (2, 2), (3, 2), (10, 6)])
def test_without_a_quorum_it_is_more_than_half_of_the_cohort(cohort: int, quorum: int) -> None:
    assert quorum_of(RunConf(), cohort) == quorum
    assert quorum_of(RunConf(quorum=1), cohort) == 1


def test_every_phase_closes_by_the_run_s_own_patience() -> None:
    run = RunConf(round_timeout=100.0, quorum=3, grace=7.0, reconnect_patience=40.0)
    assert closing_of(run, 5) == Closing(100.0, 3, 7.0, 40.0)
    assert closing_of(run, 5, asked=4) == Closing(100.0, 3, 7.0, 40.0)
    assert closing_of(run, 5, asked=1).quorum == 1, "nobody is waited for who was not asked"
    assert closing_of(run, 5, asked=0).quorum == 0


def test_a_first_start_needs_all_or_the_start_quorum_and_a_restart_what_a_round_needs() -> None:
    assert needed_at_start(RunConf(), 3, closed=0) == 3
    assert needed_at_start(RunConf(start_quorum=2), 3, closed=0) == 2
    assert needed_at_start(RunConf(), 3, closed=1) == 2
    assert needed_at_start(RunConf(quorum=3), 3, closed=1) == 3
    assert needed_at_start(RunConf(start_quorum=1), 3, closed=1) == 1, "never more than at first"
    assert needed_at_start(RunConf(cohort=2), 10, closed=1) == 2


def test_after_a_restart_all_silos_have_a_while_to_come_back() -> None:
    assert settling_at_start(RunConf(), closed=0) == 0.0
    assert settling_at_start(RunConf(), closed=3) == RETURN_SECONDS
    assert settling_at_start(RunConf(start_timeout=5.0), closed=3) == 5.0

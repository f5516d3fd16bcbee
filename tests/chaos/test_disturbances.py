"""A chaos run's plan is drawn from its seed alone, and has everything in it."""

from __future__ import annotations

from tests.chaos.disturbances import (
    CLOCK,
    CUT,
    CUTS,
    JOIN,
    KILL,
    NEEDS_LINKS,
    PAUSE,
    PAUSES,
    PHASES,
    RATE,
    SERVER,
    STEPS,
    plan,
)

SILOS = ["silo-1", "silo-2", "silo-3"]
HOUR = plan(1, 3600, SILOS, ["late"])


def test_the_same_seed_gives_the_same_plan_and_another_another() -> None:
    assert plan(1, 3600, SILOS, ["late"]) == HOUR
    assert plan(2, 3600, SILOS, ["late"]) != HOUR


def test_a_plan_is_in_order_within_its_time_and_names_those_who_are_there() -> None:
    times = [one.at for one in HOUR]
    assert times == sorted(times) and times[0] > 0 and times[-1] < 3600
    assert {name for one in HOUR for name in one.whom} == {*SILOS, "late", SERVER}


def test_an_hour_has_every_pause_in_every_phase_every_step_and_every_cut() -> None:
    pauses = {(one.seconds, one.phase, one.whom == (SERVER,)) for one in HOUR if one.kind == PAUSE}
    assert pauses == {(s, p, who) for s in PAUSES for p in PHASES for who in (True, False)}
    steps = {(one.amount, one.whom == (SERVER,)) for one in HOUR if one.kind == CLOCK}
    assert steps == {(step, who) for step in STEPS for who in (True, False)}
    assert {one.seconds for one in HOUR if one.kind == CUT} == set(CUTS)
    assert {one.kind for one in HOUR} == {KILL, PAUSE, CLOCK, CUT, RATE, JOIN}


def test_silos_are_disturbed_alone_and_all_together_and_a_late_one_joins_once() -> None:
    assert {len(one.whom) for one in HOUR if one.kind in (KILL, PAUSE)} == {1, 2, 3}
    (join,) = [one for one in HOUR if one.kind == JOIN]
    assert join.whom == ("late",) and 360 <= join.at <= 1800
    assert all("late" not in one.whom for one in HOUR if one.kind != JOIN)


def test_without_links_nothing_is_done_to_one() -> None:
    plain = plan(1, 3600, SILOS, links=False)
    assert plain and not [one for one in plain if one.kind in NEEDS_LINKS]


def test_a_disturbance_says_what_it_is() -> None:
    said = {str(one) for one in HOUR}
    assert any(one.startswith("pause for 120 s of server in ") for one in said)
    assert any(one.startswith("clock step by -3600 s for ") for one in said)

"""The cohort is a seeded draw from names, never from node ids."""

from __future__ import annotations

from server.round.cohort import select

SILOS = [f"silo-{i}" for i in range(10)]


def test_everybody_without_a_cohort() -> None:
    assert select(SILOS[::-1], cohort=None, seed=0, round=1) == sorted(SILOS)
    assert select(SILOS, cohort=99, seed=0, round=1) == sorted(SILOS)


def test_the_draw_depends_on_seed_and_round_and_not_on_the_order_of_the_names() -> None:
    drawn = select(SILOS, cohort=4, seed=7, round=3)
    assert len(set(drawn)) == 4
    assert drawn == select(SILOS[::-1], cohort=4, seed=7, round=3)
    assert {tuple(select(SILOS, cohort=4, seed=7, round=r)) for r in range(20)} != {tuple(drawn)}
    assert {tuple(select(SILOS, cohort=4, seed=s, round=3)) for s in range(20)} != {tuple(drawn)}


def test_everybody_is_drawn_sooner_or_later() -> None:
    assert {name for r in range(30) for name in select(SILOS, cohort=3, seed=0, round=r)} == set(
        SILOS
    )

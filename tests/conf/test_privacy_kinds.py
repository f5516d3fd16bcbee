"""Which kind of privacy is at least as much as another: a floor, and what meets it."""

from __future__ import annotations

from itertools import product

import pytest

from conf.privacy_kinds import (
    CALLED,
    LOCAL_DP,
    MEETING,
    NOISED_METRICS,
    NONE,
    OF_EXAMPLES,
    OF_SILOS,
    RELATIONS,
    SAMPLE_DP,
    SILO_DP,
    UNITS,
    sensitivity_of,
)
from conf.schema import VARIANTS, PolicyConf


def test_every_kind_has_its_place() -> None:
    kinds = set(VARIANTS["privacy"])
    # What is released beside the model is no kind that a run could choose.
    assert kinds == set(MEETING) == {NONE, *RELATIONS} - {NOISED_METRICS}
    assert set(RELATIONS) == set(UNITS) == set(CALLED)
    floors = PolicyConf.__dataclass_fields__["privacy_at_least"].metadata["one_of"]
    assert set(floors) == kinds


def test_the_order_is_one() -> None:
    for kind in MEETING:
        assert kind in MEETING[kind], "a floor is met by itself"
        assert kind in MEETING[NONE] and LOCAL_DP in MEETING[kind]
    for low, middle, high in product(MEETING, repeat=3):
        if middle in MEETING[low] and high in MEETING[middle]:
            assert high in MEETING[low]
    assert SILO_DP not in MEETING[SAMPLE_DP] and SAMPLE_DP not in MEETING[SILO_DP]


def test_only_what_has_a_cost_for_a_unit_counts_in_its_sum() -> None:
    assert set(OF_EXAMPLES) == {SAMPLE_DP, LOCAL_DP, NOISED_METRICS}
    assert set(OF_SILOS) == {SILO_DP, LOCAL_DP}


@pytest.mark.parametrize(("kind", "wide"), [(SAMPLE_DP, 1), (SILO_DP, 2), (LOCAL_DP, 2)])
def test_another_change_may_lie_twice_the_norm_away(kind: str, wide: int) -> None:
    assert sensitivity_of(kind) == wide

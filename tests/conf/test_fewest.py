"""A rule's breakdown point: how many updates a round needs, told when a run is composed."""

from __future__ import annotations

import pytest

from conf.compose import compose
from conf.errors import ConfigError
from conf.fewest import ROWS, fewest_rows, fewest_updates, needed_by
from conf.schema import VARIANTS, CohortRuleConf, FedProxConf


def test_every_rule_of_the_schema_has_its_breakdown_point() -> None:
    rules = {n for n, cls in VARIANTS["strategy"].items() if issubclass(cls, CohortRuleConf)}
    assert rules == set(ROWS)


@pytest.mark.parametrize(
    ("rule", "f", "rows"),
    [
        ("median", 2, 5),
        ("trimmed_mean", 1, 3),
        ("krum", 1, 5),
        ("multikrum", 2, 7),
        ("bulyan", 1, 7),
        ("bulyan", 2, 11),
        ("geometric_median", 1, 3),
        ("centered_clipping", 1, 3),
    ],
)
def test_they_are_those_of_the_papers(rule: str, f: int, rows: int) -> None:
    assert fewest_rows(rule, f) == rows


def test_buckets_make_so_many_rows_and_one_update_less_does_not() -> None:
    for bucket in (1, 2, 3):
        needed = fewest_updates("krum", 1, bucket)
        assert -(-needed // bucket) == 5
        assert -(-(needed - 1) // bucket) == 4


def test_a_mean_needs_one() -> None:
    assert needed_by(FedProxConf()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["strategy=krum", "federation.size=4"], "needs 5 updates.*federation.size.*says 4"),
        (["strategy=krum", "federation.size=9", "run.cohort=4"], "run.cohort.*says 4"),
        (["strategy=bulyan", "federation.size=9", "run.quorum=6"], "needs 7.*run.quorum.*says 6"),
        (["strategy=median", "strategy.bucket=2", "federation.size=4"], "bucket=2 needs 5"),
        (["strategy=trimmed_mean", "strategy.f=2", "federation.size=4"], "strategy.f=2 needs 5"),
    ],
)
def test_too_few_are_told_when_a_run_is_composed(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"MDW-105.*{said}"):
        compose(words)


def test_enough_are_enough() -> None:
    assert compose(["strategy=krum", "federation.size=5", "run.quorum=5"]).strategy.name == "krum"

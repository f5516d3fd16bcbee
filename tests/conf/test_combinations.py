"""Every pair of the table is either trained for a round, or refused with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import reduce
from itertools import combinations, product
from operator import or_
from pathlib import Path

import pytest

from conf.combinations import AXES, NOTES, REFUSED, Value, page, pairs, refusal
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import EXTERNAL, VARIANTS, TrainerConf
from server.simulation import simulate

TINY = [
    "task=digits",
    "data.examples=36",
    "data.partition=iid",
    "federation.size=3",
    "run.rounds=1",
    "trainer.batch_size=8",
    "trainer.lr=0.01",
    "tracking=off",
    "simulation=pool",
    "simulation.workers=0",
]
VALUES = [value for axis in AXES for value in axis.values]
FP32_ON_A_CPU = ("auto", "tf32")
"""Precisions that are fp32 here, to the bit: its runs are theirs (`tests/gpu/test_precision.py`)."""
TRAINED_HERE = [
    replace(axis, values=tuple(v for v in axis.values if v.name not in FP32_ON_A_CPU))
    for axis in AXES
]
WORKING = {
    frozenset((a.name, b.name))
    for a, b in pairs()
    if refusal(a, b) is None and not {a.name, b.name} & set(FP32_ON_A_CPU)
}
Row = Sequence[Value]


def rows() -> list[Row]:
    """Few runs in which every pair that works occurs: each takes what is new to most pairs."""
    bit = {pair: 1 << number for number, pair in enumerate(WORKING)}
    possible = []
    for row in product(*(axis.values for axis in TRAINED_HERE)):
        pairs_in_row = [bit.get(frozenset((a.name, b.name))) for a, b in combinations(row, 2)]
        if None not in pairs_in_row:
            possible.append((reduce(or_, pairs_in_row), row))  # type: ignore[arg-type]  # no None
    missing = reduce(or_, bit.values())
    chosen: list[Row] = []
    while missing:
        covered, best = max(possible, key=lambda one: (one[0] & missing).bit_count())
        assert covered & missing, f"no run has {missing:b}"
        missing &= ~covered
        chosen.append(best)
    return chosen


ROWS = rows()


LAST_LAYER = {"no buffers": "3", "batch norm": "fc"}
"""Of the models of the table."""


def overrides(row: Row) -> list[str]:
    """What is written for these values; a choice of a group before the keys inside it."""
    words = [word for value in row for word in value.written.split()]
    for value in row:
        if value.name in LAST_LAYER:
            words = [word.replace("[fc]", f"['{LAST_LAYER[value.name]}']") for word in words]
    private = any(word.startswith("privacy=") and word != "privacy=none" for word in words)
    if private and not any("weighting" in word for word in words):
        words.append("strategy.weighting=equal")
    return sorted(words, key=lambda word: "." in word.partition("=")[0])


def _named(name: str) -> Value:
    return next(value for value in VALUES if value.name == name)


def name_of(row: Row) -> str:
    return "-".join(value.name.replace(" ", "_") for value in row)


def test_the_runs_below_have_every_pair_that_works() -> None:
    covered = {frozenset((a.name, b.name)) for row in ROWS for a, b in combinations(row, 2)}
    assert covered >= WORKING
    assert len({value.name for value in VALUES}) == len(VALUES)


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_pair_that_works_is_trained(row: Row, tmp_path: Path) -> None:
    run = simulate([*TINY, *overrides(row), f"run.output={tmp_path}"])
    assert run.result.status == "finished"
    assert run.rounds[0].failed == {} and len(run.rounds[0].replied) >= 2


@pytest.mark.parametrize(
    ("a", "b"),
    [pair for pair in pairs() if refusal(*pair) is not None],
    ids=lambda value: value.name,
)
def test_a_pair_that_does_not_work_is_refused_when_it_is_composed(a: Value, b: Value) -> None:
    rule = refusal(a, b)
    assert rule is not None and rule.hint
    with pytest.raises(ConfigError) as caught:
        compose([*TINY, *overrides([a, b])])
    assert caught.value.code == "MDW-165"
    assert rule.why in str(caught.value) and rule.hint in str(caught.value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)
def test_each_value_is_known_again_in_what_it_is_written_as(value: Value) -> None:
    (axis,) = [axis for axis in AXES if value in axis.values]
    assert axis.chosen(compose([*TINY, *overrides([value])])) is value


def test_every_choice_of_the_schema_has_its_value() -> None:
    (algorithms,) = [axis for axis in AXES if axis.name == "algorithm"]
    own = {value.name for value in algorithms.values} - {"from Flower"}
    assert own == set(VARIANTS["strategy"]) - {EXTERNAL}
    named = {f.name: f.metadata.get("one_of", ()) for f in fields(TrainerConf)}
    for key in ("optimizer", "precision"):
        (axis,) = [axis for axis in AXES if axis.name == key]
        assert {value.name for value in axis.values} >= set(named[key])


def test_each_rule_is_of_two_values_of_the_table() -> None:
    all_pairs = [{a.name, b.name} for a, b in pairs()]
    for rule in (*REFUSED, *NOTES):
        assert {rule.first, rule.second} in all_pairs
    for note in NOTES:
        assert refusal(_named(note.first), _named(note.second)) is None


def test_the_docs_print_this_table() -> None:
    told = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
    assert page() in told, "run python -m conf.combinations, and put it into docs/strategies.md"

"""Every pair of the table is either trained for a round, or refused with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

import pytest

from conf.combination_axes import AXES, COHORT_RULES, Axis, Value
from conf.combination_rules import NOTES, REFUSED
from conf.combinations import page, pairs, refusal
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import EXTERNAL, VARIANTS, CohortRuleConf, TrainerConf
from server.simulation import simulate

TINY = [
    "task=digits",
    "data.examples=36",
    "data.partition=iid",
    "federation.size=3",
    "run.rounds=1",
    "trainer.batch_size=8",
    "trainer.lr=0.001",  # of a large step ResNet makes activations that no loss may have
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
RULES = set(COHORT_RULES)
"""Rules over a round's updates are the server's alone: their silos train as those of fedavg do."""
APART = {
    "optimizer",
    "precision",
    "clipping",
    "batches a step",
    "compression",
    "model that is kept",
}
"""Axes that a rule has nothing to do with: it gets updates, decoded by then, and makes a model. It is
not tried with each of their values.
"""
Row = Sequence[Value]
Pair = frozenset[str]


def pair_of(a: Value, b: Value) -> Pair:
    return frozenset((a.name, b.name))


REFUSED_PAIRS = {pair_of(a, b) for a, b in pairs() if refusal(a, b) is not None}
LEFT_TO_OTHERS = {
    frozenset((rule, value.name))
    for rule in RULES
    for axis in AXES
    for value in axis.values
    if axis.name in APART
}
SLOW_HERE = ("fp16", "bf16")
"""Precisions that a CPU computes slowly, and eight silos longer than three."""
AVOIDED = REFUSED_PAIRS | {frozenset((rule, name)) for rule in RULES for name in SLOW_HERE}
WORKING = {
    pair_of(a, b)
    for a, b in pairs()
    if refusal(a, b) is None and not {a.name, b.name} & set(FP32_ON_A_CPU)
} - LEFT_TO_OTHERS
SEEDS = 40
"""Pairs from which a row is grown; the best of these rows is taken."""


def rows() -> list[Row]:
    """Few runs in which every pair that works occurs: each takes what is new to most pairs."""
    missing = set(WORKING)
    chosen: list[Row] = []
    while missing:
        seeds = sorted(missing, key=sorted)[:SEEDS]
        best = max((grown(seed, missing) for seed in seeds), key=lambda row: new_in(row, missing))
        assert new_in(best, missing), f"no run has {seeds[0]}"
        missing -= pairs_in(best)
        chosen.append(best)
    return chosen


def grown(seed: Pair, missing: set[Pair]) -> Row:
    """Return a run with a pair, and of each other axis the value that is new to most pairs."""
    first = [axis for axis in TRAINED_HERE if any(value.name in seed for value in axis.values)]
    axes = [*first, *(axis for axis in TRAINED_HERE if axis not in first)]
    found = completed([], axes, seed, missing)
    assert found is not None, f"no run has {sorted(seed)}"
    places = {value.name: at for at, axis in enumerate(TRAINED_HERE) for value in axis.values}
    return sorted(found, key=lambda value: places[value.name])


def completed(
    taken: list[Value], axes: Sequence[Axis], seed: Pair, missing: set[Pair]
) -> list[Value] | None:
    if len(taken) == len(axes):
        return taken
    axis = axes[len(taken)]
    values = [value for value in axis.values if value.name in seed] or list(axis.values)
    values.sort(key=lambda value: -sum(pair_of(value, other) in missing for other in taken))
    for value in values:
        if not any(pair_of(value, other) in AVOIDED for other in taken):
            whole = completed([*taken, value], axes, seed, missing)
            if whole is not None:
                return whole
    return None


def pairs_in(row: Row) -> set[Pair]:
    return {pair_of(a, b) for a, b in combinations(row, 2)}


def new_in(row: Row, missing: set[Pair]) -> int:
    return len(pairs_in(row) & missing)


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
    if "batch norm" in {value.name for value in row}:
        # Running means know little after two steps: with larger ones a score is of no use.
        words.append("trainer.lr=0.0001")
    if any(value.name in RULES for value in row):
        # Bulyan needs seven updates for one liar.
        words = ["federation.size=8", "data.examples=96", *words]
        words = [word.replace("run.cohort=2", "run.cohort=7") for word in words]
    return sorted(words, key=lambda word: "." in word.partition("=")[0])


def _named(name: str) -> Value:
    return next(value for value in VALUES if value.name == name)


def name_of(row: Row) -> str:
    return "-".join(value.name.replace(" ", "_") for value in row)


def test_the_runs_below_have_every_pair_that_works() -> None:
    covered = {frozenset((a.name, b.name)) for row in ROWS for a, b in combinations(row, 2)}
    assert covered >= WORKING
    assert not covered & REFUSED_PAIRS
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
    rules = {n for n, cls in VARIANTS["strategy"].items() if issubclass(cls, CohortRuleConf)}
    assert rules == RULES
    (forms,) = [axis for axis in AXES if axis.name == "compression"]
    assert len(forms.values) == len(VARIANTS["compression"])
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

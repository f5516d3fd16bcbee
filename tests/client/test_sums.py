"""Metrics of a union are made of sums: what scikit-learn says of all predictions, whatever the split."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from client import sums
from client.sums import Sums
from client.tasks import task_named
from client.tasks.base import SumSpec, Task
from conf.errors import DataError
from conf.schema import Silo

DIGITS = task_named("digits")


def evaluated(logits: Tensor, labels: Tensor) -> Sums:
    return sums.of_batch(DIGITS, logits, (torch.zeros(len(labels), 1, 8, 8), labels))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_a_federations_metrics_are_scikit_learns_on_the_pooled_predictions(
    examples: int, silos: int, seed: int, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(examples, 10)).astype(np.float32))
    # Fewer classes than the task has, so that many silos lack some.
    labels = torch.from_numpy(rng.integers(0, classes, examples))
    silo_of = rng.integers(0, silos, examples)
    parts = [
        evaluated(logits[silo_of == silo], labels[silo_of == silo])
        for silo in range(silos)
        if (silo_of == silo).any()
    ]
    metrics = sums.metrics_of(DIGITS, sums.folded(parts))
    guess = logits.argmax(1).numpy()
    assert metrics["accuracy"] == accuracy_score(labels, guess)
    macro = f1_score(labels, guess, average="macro", zero_division=0)
    assert metrics["f1"] == pytest.approx(macro, rel=1e-12)
    pooled = torch.nn.functional.cross_entropy(logits.double(), labels)
    assert metrics["loss"] == pytest.approx(float(pooled), rel=1e-6)


def test_the_same_parts_in_the_same_order_give_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [evaluated(torch.randn(7, 10, generator=generator), torch.arange(7)) for _ in range(20)]
    first = sums.folded(parts)
    again = sums.folded(parts)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["confusion"].dtype == torch.int64 and int(first["size"]) == 140


def test_folding_leaves_the_parts_as_they_were() -> None:
    part = evaluated(torch.eye(10), torch.arange(10))
    before = {name: value.clone() for name, value in part.items()}
    sums.folded([part, part])
    assert all(torch.equal(part[name], before[name]) for name in part)


def test_a_union_has_the_bits_of_the_silos_in_order_whoever_came_first() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = {
        f"silo-{number}": evaluated(torch.randn(7, 10, generator=generator), torch.arange(7))
        for number in range(20)
    }
    whole = sums.folded(part for _, part in sorted(parts.items()))
    for names in (list(parts), list(reversed(parts))):
        union = sums.Union()
        for name in names:
            union.add(name, parts[name])
        total = union.total()
        assert total.keys() == whole.keys()
        assert all(torch.equal(total[name], whole[name]) for name in whole)
    assert sums.Union().total() == {}


def test_a_union_holds_the_counts_of_its_silos_once() -> None:
    union = sums.Union()
    tracemalloc.start()
    try:
        for number in range(50):
            counts = torch.from_numpy(np.ones(100_000, np.int64))
            union.add(f"silo-{number}", {"counts": counts, "loss": torch.tensor(1.5)})
            del counts
        assert tracemalloc.get_traced_memory()[0] < 4_000_000
    finally:
        tracemalloc.stop()
    assert int(union.total()["counts"][0]) == 50


def test_another_shape_is_refused_and_not_broadcast() -> None:
    total = {"n": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match="'n' changed its shape or type"):
        sums.add(total, {"n": torch.ones((), dtype=torch.int64)})


class Odd(Task):
    """A task whose sums and metrics are what a test gives it."""

    name = "odd"

    def __init__(self, given: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        self.given = given
        self.made = metrics

    def data(self, silo: Silo) -> Any:
        raise NotImplementedError

    def loss(self, output: Any, batch: Any) -> Tensor:
        return torch.tensor(1.0)

    def sums(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        return self.given

    def sum_specs(self) -> Mapping[str, SumSpec]:
        return {"right": SumSpec(), "error": SumSpec(real=True)}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        return self.made


GOOD = {"right": torch.tensor(1), "error": torch.tensor(0.5)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"right": torch.tensor(1)}, "'error' is in `sums` or in `sum_specs`, not in both"),
        (GOOD | {"more": torch.tensor(1)}, "'more' is in `sums`"),
        (GOOD | {"right": torch.ones(2)}, r"'right' has the shape \(2,\), not \(\)"),
        (
            GOOD | {"right": torch.tensor(0.5)},
            "'right' is torch.float32, and is declared as counts",
        ),
        (GOOD | {"error": "much"}, "'error' is a str"),
    ],
)
def test_sums_that_are_not_as_declared_are_refused_by_name(
    given: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=f"MDW-208: The task odd: {says}"):
        sums.of_batch(Odd(given, {}), None, (torch.zeros(2),))


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5], torch.ones(2)])
def test_a_metric_that_is_not_a_number_is_refused_by_name(value: object) -> None:
    task = Odd(GOOD, {"score": value})
    made = sums.of_batch(task, None, (torch.zeros(2),))
    with pytest.raises(DataError, match="MDW-209: The task odd: 'score' is"):
        sums.metrics_of(task, made)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.float64(0.5)])
def test_a_metric_may_be_any_number(value: object) -> None:
    task = Odd(GOOD, {"score": value})
    metrics = sums.metrics_of(task, sums.of_batch(task, None, (torch.zeros(2),)))
    assert metrics == {"loss": 1.0, "score": 0.5} and type(metrics["score"]) is float


def test_a_task_may_not_take_the_name_of_the_loss() -> None:
    task = Odd(GOOD, {"loss": 1.0})
    with pytest.raises(DataError, match="MDW-209: The task odd: 'loss' is the name"):
        sums.metrics_of(task, sums.of_batch(task, None, (torch.zeros(2),)))


class Recall(Odd):
    """A task whose metrics are undefined without a positive, and say so as Python does."""

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        return {"recall": int(sums["right"]) / int(sums["positives"])}


def test_a_division_by_0_makes_metrics_undefined_under_their_names() -> None:
    task = Recall({}, {})
    nothing = torch.tensor(0)
    found = sums.metrics_of(
        task,
        {
            "loss": torch.tensor(2.0),
            "size": torch.tensor(1),
            "right": nothing,
            "positives": nothing,
        },
    )
    assert found["loss"] == 2 and np.isnan(found["recall"]) and len(found) == 2


def test_a_loss_of_its_own_has_no_range_until_the_task_says_one() -> None:
    class Contrastive(type(DIGITS)):  # type: ignore[misc]
        def loss(self, output: Any, batch: Any) -> Tensor:
            return torch.zeros(())

    class Bounded(Contrastive):
        loss_range = (-5.0, 0.0)

    def limits(task: Task) -> tuple[float, float]:
        spec = sums.specs_of(task)[sums.LOSS]
        return spec.low, spec.high

    assert limits(DIGITS) == (0.0, 1e6)
    made = Contrastive.__new__(Contrastive)
    assert limits(made) == (-float("inf"), float("inf"))
    assert limits(Bounded.__new__(Bounded)) == (-5.0, 0.0)

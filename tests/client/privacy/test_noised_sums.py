"""Sums with noise: what one example can move is bounded whatever the task says, the noise is as large as
it is counted, and a metric that it leaves nothing of is not told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from client import sums
from client.privacy.noised_sums import EXAMPLES, SPREAD, NoisedSums
from client.sums import Sums
from client.tasks import task_named, task_of
from client.tasks.base import Contract, SumSpec, Task
from client.tasks.kinds.classification import Classification
from client.tasks.kinds.multi_label import MultiLabel
from client.tasks.kinds.regression import Regression
from client.tasks.kinds.segmentation import Segmentation
from conf.compose import compose
from conf.errors import SiloError

DIGITS = NoisedSums(task_named("digits"), 4.0)


def named(task: Task, name: str = "mine") -> Task:
    task.name = name
    return task


class Labels(MultiLabel):
    contract = Contract((4,), ("a", "b", "c"))

    def read(self, root: Any) -> Any:
        raise NotImplementedError


class Two(Classification):
    contract = Contract((4,), ("no", "yes"))

    def read(self, root: Any) -> Any:
        raise NotImplementedError


class Numbers(Regression):
    contract = Contract((4,), targets=("price",))

    def read(self, root: Any) -> Any:
        raise NotImplementedError


class Masks(Segmentation):
    contract = Contract((1, 4, 4), ("no", "yes"), dense=True)

    def read(self, root: Any) -> Any:
        raise NotImplementedError


class Liar(Two):
    """Says that an example adds at most 1, and has it add a thousand."""

    def sums(self, output: Tensor, batch: Any) -> Mapping[str, Tensor]:
        return {"confusion": torch.full((2, 2), 1000), "told": torch.tensor([-7.0, math.nan])}

    def sum_specs(self) -> Mapping[str, SumSpec]:
        specs = dict(super().sum_specs())
        return {**specs, "told": SumSpec((2,), real=True, low=0.0, high=0.5, at_once=1)}

    def metrics(self, sums: Mapping[str, Tensor]) -> Mapping[str, float]:
        told = float(sums["told"].sum())
        return {"accuracy": 0.5, "told": told}


def moved(form: NoisedSums, row: Sums) -> float:
    """How far one example moves all that leaves, in units of its noise."""
    return math.sqrt(
        sum(float((row[p.name] / p.deviation(1.0)).square().sum()) for p in form.parts)
    )


@pytest.mark.parametrize(
    "task", [named(Two()), named(Labels()), named(Liar()), task_named("digits")]
)
def test_one_example_moves_all_that_leaves_by_no_more_than_the_noise_is_for(task: Task) -> None:
    form = NoisedSums(task, 4.0)
    draws = torch.Generator().manual_seed(0)
    longest = 0.0
    for times in (1.0, 3.0, 1e6, math.nan, math.inf):
        for _ in range(20):
            wild: Sums = {}
            for name, spec in sums.specs_of(task).items():
                of = torch.randn(spec.shape, generator=draws, dtype=torch.float64) * times
                wild[name] = of if spec.real else torch.nan_to_num(of, 1e9, 1e9, -1e9).long()
            longest = max(longest, moved(form, form.bounded(wild)))
    assert 0.5 < longest <= 1 + 1e-9
    assert math.isclose(sum(part.share for part in form.parts), 1.0)


def test_a_task_that_declares_less_than_it_adds_is_held_to_it() -> None:
    task = named(Liar())
    form = NoisedSums(task, 4.0)
    batch = (torch.zeros(1, 4), torch.tensor([1]))
    row = form.bounded(sums.of_batch(task, torch.zeros(1, 2), batch))
    assert row["confusion"].tolist() == [0.5] * 4, "of norm 1, as an example that is counted once"
    assert row["told"].norm() <= 0.5 and row["told"].min() >= 0


def test_a_loss_that_is_no_number_counts_as_the_largest() -> None:
    [loss] = [part for part in DIGITS.parts if part.name == sums.LOSS]
    assert [float(loss.bounded(torch.tensor(x))) for x in (math.nan, 1e9, -3.0, 2.0)] == [
        4,
        4,
        0,
        2,
    ]


def test_a_loss_that_is_nothing_leaves_its_part_of_the_privacy_to_nobody() -> None:
    class Idle(Two):
        loss_range = (0.0, 0.0)

    form = NoisedSums(named(Idle()), 4.0)
    assert [part.name for part in form.parts] == ["confusion"]
    assert sum(part.share for part in form.parts) <= 1


def test_the_noise_is_as_large_as_it_is_counted() -> None:
    draws = torch.Generator().manual_seed(1)
    drawn = [DIGITS.noised(DIGITS.nothing(), 3.0, draws) for _ in range(3000)]
    for part in DIGITS.parts:
        seen = torch.cat([one[part.name] for one in drawn]) / part.deviation(3.0)
        assert stats.kstest(seen.numpy(), "norm").pvalue > 0.001
    # One example of confusion against all of its noise, and that of the loss, is one at noise 3.
    parts = {part.name: part for part in DIGITS.parts}
    assert parts["confusion"].deviation(3.0) == pytest.approx(3.0 / math.sqrt(0.8))
    assert parts[sums.LOSS].deviation(3.0) == pytest.approx(3.0 * 4.0 / math.sqrt(0.2))


def test_of_many_classes_only_right_and_wrong_leave_and_only_what_they_give_is_told() -> None:
    assert {part.name: part.elements for part in DIGITS.parts} == {"loss": 1, "confusion": 2}
    assert DIGITS.unknown == {"f1"}
    told = DIGITS.metrics(
        {"loss": torch.tensor([50.0]), "confusion": torch.tensor([90.0, 10.0])}, 1e-9
    )
    assert told["accuracy"] == 0.9 and told["loss"] == 0.5 and math.isnan(told["f1"])
    assert told[EXAMPLES] == 100 and "f1_noise" not in told


def test_of_two_classes_all_four_counts_leave() -> None:
    form = NoisedSums(named(Two()), 4.0)
    assert form.unknown == frozenset()
    matrix = torch.tensor([50.0, 10.0, 5.0, 35.0], dtype=torch.float64)
    told = form.metrics({"loss": torch.tensor([0.0]), "confusion": matrix}, 1e-9)
    assert told["accuracy"] == 0.85 and told["f1"] == pytest.approx((100 / 115 + 70 / 85) / 2)


def test_scores_in_bins_stay_at_the_silo() -> None:
    form = NoisedSums(task_of(compose(["task=adult"]).task), 4.0)
    assert [part.name for part in form.parts] == ["loss", "confusion"]
    assert {"auroc", "auprc"} <= form.unknown


def test_a_sum_of_which_no_metric_that_is_told_is_made_stays_too() -> None:
    words = ["task=images", "task.classes=[a,b,c]"]
    form = NoisedSums(task_of(compose(words).task), 4.0)
    assert [part.name for part in form.parts] == ["loss", "confusion"], "and not the cooled losses"


@pytest.mark.parametrize(
    ("task", "why"),
    [(Numbers(), "squared_error"), (Masks(), "mean over more than examples")],
)
def test_a_task_without_a_bound_is_refused_by_name(task: Task, why: str) -> None:
    with pytest.raises(SiloError, match=f"MDW-367: The task mine .*{why}"):
        NoisedSums(named(task), 4.0)


@pytest.mark.parametrize("task", [named(Two()), named(Labels()), task_named("digits")])
def test_whatever_the_noise_makes_of_sums_metrics_are_made_of_them(task: Task) -> None:
    form = NoisedSums(task, 4.0)
    draws = torch.Generator().manual_seed(2)
    for _ in range(20):
        told = form.metrics(form.noised(form.nothing(), 50.0, draws), 50.0)
        for name, value in told.items():
            assert value >= 0 or math.isnan(value), name
        assert told.get("accuracy", 0.0) <= 1 or math.isnan(told["accuracy"])


def test_the_deviation_that_is_told_is_that_of_the_noise() -> None:
    draws = torch.Generator().manual_seed(3)
    exact = {"loss": torch.tensor([400.0]), "confusion": torch.tensor([700.0, 100.0])}
    exact = {name: row.double() for name, row in exact.items()}
    told = [DIGITS.metrics(DIGITS.noised(exact, 20.0, draws), 20.0) for _ in range(150)]
    for name in ("accuracy", "loss"):
        real = torch.tensor([one[name] for one in told]).std()
        said = torch.tensor([one[f"{name}{SPREAD}"] for one in told]).mean()
        assert said == pytest.approx(float(real), rel=0.25), name
    counted = torch.tensor([one[EXAMPLES] for one in told])
    assert counted.mean() == pytest.approx(800, abs=4 * 32 / 150**0.5)
    assert told[0][f"{EXAMPLES}{SPREAD}"] == pytest.approx(float(counted.std()), rel=0.25)

"""How sure a model of several classes is, counted at every temperature that may be chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from client import sums
from client.loop import Evaluation
from client.tasks import task_of
from client.tasks.base import Task
from client.tasks.kinds import confidence
from client.withholding import told
from conf.schema import OperatingConf, PolicyConf, TableConf
from server.scoring.calibration import (
    RANGES,
    confidence_reliability,
    confidence_temperature,
)
from server.scoring.details import chosen_of, details_of

COLUMNS = [
    {"name": "x", "low": -9.0, "high": 9.0},
    {"name": "kind", "type": "category", "values": ["a", "b", "c", "d"]},
]


def task() -> Task:
    return task_of(TableConf(name="table", label="kind", columns=COLUMNS))


def honest(seed: int, count: int = 6000) -> tuple[Tensor, Tensor]:
    """Return logits whose softmax is what happens, and labels drawn by it."""
    drawn = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=drawn) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=drawn)[:, 0]
    return logits, labels


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_the_temperature_is_what_logits_were_multiplied_by(times: float) -> None:
    logits, labels = honest(0)
    found = confidence.sums(logits * times, labels)
    chosen = confidence_temperature(found[confidence.COUNTS], found[confidence.LOSSES])
    # Temperatures are 9 % apart.
    assert chosen == pytest.approx(times, rel=0.1)


def test_losses_are_the_cross_entropy_at_each_temperature() -> None:
    logits, labels = honest(1, 300)
    found = confidence.sums(logits * 2, labels)[confidence.LOSSES]
    for place in (0, confidence.AS_IT_IS, 40):
        cooled = logits.double() * 2 / confidence.TEMPERATURES[place]
        wanted = float(functional.cross_entropy(cooled, labels, reduction="sum"))
        assert float(found[place]) == pytest.approx(wanted, rel=1e-5)


def test_the_error_is_that_of_the_probability_of_the_class_that_is_said() -> None:
    logits, labels = honest(2, 3000)
    counts = confidence.sums(logits * 2, labels)[confidence.COUNTS]
    said, guesses = (logits * 2).softmax(1).max(1)
    right = (guesses == labels).numpy()
    ranges = np.minimum((said.numpy() * RANGES).astype(int), RANGES - 1)
    error = 0.0
    for one in range(RANGES):
        there = ranges == one
        if there.any():
            error += abs(said.numpy()[there].mean() - right[there].mean()) * there.mean()

    assert confidence_reliability(counts).error == pytest.approx(error, abs=5e-3)
    cooled = confidence_reliability(counts, 2.0).error
    assert cooled < 0.02 < confidence_reliability(counts).error


def test_parts_of_examples_add_up_and_are_what_the_task_declares() -> None:
    logits, labels = honest(3, 400)
    one = task()
    rows = torch.zeros(400, 1)
    whole = sums.of_batch(one, logits, (rows, labels))
    parts = [sums.of_batch(one, logits[i::3], (rows[i::3], labels[i::3])) for i in range(3)]
    added = sums.folded(parts)

    assert torch.equal(added[confidence.COUNTS], whole[confidence.COUNTS])
    assert torch.allclose(added[confidence.LOSSES], whole[confidence.LOSSES])
    for name, spec in one.sum_specs().items():
        assert float(whole[name].max()) <= spec.high * 400
        assert tuple(whole[name].shape) == spec.shape


def test_a_run_chooses_one_and_tells_the_error_before_and_after() -> None:
    logits, labels = honest(4)
    one = task()
    rows = torch.zeros(len(labels), 1)
    of_validation = sums.of_batch(one, logits[::2] * 3, (rows[::2], labels[::2]))
    of_test = sums.of_batch(one, logits[1::2] * 3, (rows[1::2], labels[1::2]))
    chosen = chosen_of(one, of_validation, OperatingConf())
    found = details_of(one, of_test, chosen)

    assert chosen["temperature"] == pytest.approx(3, rel=0.1)
    before = found["confidence"]["reliability"]["error"]
    assert found["confidence"]["calibrated"]["error"] < before / 3
    # A temperature of all logits is none of one class against the rest.
    assert all("calibrated" not in of_class for of_class in found["classes"].values())


def test_two_classes_need_no_such_counts() -> None:
    columns = [COLUMNS[0], {"name": "kind", "type": "flag"}]
    plain = task_of(TableConf(name="table", label="kind", columns=columns))
    assert confidence.COUNTS not in plain.sum_specs()
    assert plain.confidence_of({}) is None


def test_losses_stay_home_where_some_of_the_counts_do() -> None:
    logits, labels = honest(5, 200)
    one = task()
    given = sums.of_batch(one, logits, (torch.zeros(200, 1), labels))

    kept = told(Evaluation(given, 200, 0.5), one, PolicyConf(cells_at_least=50)).sums
    plain = told(Evaluation(given, 200, 0.5), one, PolicyConf()).sums

    assert float(kept[confidence.LOSSES].abs().max()) == 0
    assert float(plain[confidence.LOSSES].min()) > 0
    assert confidence_temperature(kept[confidence.COUNTS], kept[confidence.LOSSES]) is None


def test_an_accuracy_that_is_withheld_can_t_be_had_from_them() -> None:
    logits, labels = honest(6, 200)
    one = task()
    given = sums.of_batch(one, logits, (torch.zeros(200, 1), labels))

    kept = told(Evaluation(given, 200, 0.5), one, PolicyConf(metrics_at_least={"accuracy": 201}))

    assert math.isnan(kept.metrics["accuracy"])
    assert int(kept.sums[confidence.COUNTS].sum()) == 0


def test_nothing_says_nothing() -> None:
    counts = torch.zeros(len(confidence.TEMPERATURES), confidence.PARTS, 2, dtype=torch.int64)
    losses = torch.zeros(len(confidence.TEMPERATURES), dtype=torch.float64)
    assert confidence_temperature(counts, losses) is None
    assert math.isnan(confidence_reliability(counts).error)
    # All right, however cold: nothing contradicts the scores.
    logits = functional.one_hot(torch.arange(4), 4) * 9.0
    found = confidence.sums(logits, torch.arange(4))
    assert confidence_temperature(found[confidence.COUNTS], found[confidence.LOSSES]) is None

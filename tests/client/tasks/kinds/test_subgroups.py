"""Metrics by group are those of the group's own examples, whatever silo has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import Tensor

from client import sums
from client.tasks import task_of
from client.tasks.base import Task
from client.tasks.kinds.subgroups import ENOUGH
from conf.errors import ConfigError
from conf.schema import TableConf
from server.scoring.details import details_of

COLUMNS = [
    {"name": "x", "low": -9.0, "high": 9.0},
    {"name": "sex", "type": "category", "values": ["f", "m"], "other": True, "missing": "typical"},
    {"name": "y", "type": "flag"},
]


def task(subgroup: str = "sex") -> Task:
    return task_of(TableConf(name="table", label="y", columns=COLUMNS, subgroup=subgroup))


def drawn(count: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, labels and logits; of one in ten the group is not known."""
    random = np.random.default_rng(0)
    rows = np.stack([random.normal(0, 3, count), random.integers(0, 3, count)], 1)
    rows[random.random(count) < 0.1, 1] = np.nan
    labels = (rows[:, 0] + random.normal(0, 2 + np.nan_to_num(rows[:, 1])) > 0).astype(np.int64)
    logits = np.stack([-rows[:, 0], rows[:, 0]], 1)
    return (
        torch.tensor(rows, dtype=torch.float32),
        torch.from_numpy(labels),
        torch.tensor(logits, dtype=torch.float32),
    )


def test_each_group_has_the_metrics_of_its_own_examples() -> None:
    rows, labels, logits = drawn()
    one = task()
    parts = [sums.of_batch(one, logits[i::3], (rows[i::3], labels[i::3])) for i in range(3)]
    total = sums.folded(parts)

    found = details_of(one, total, {})["subgroups"]

    worst = []
    for place, name in enumerate(("f", "m", "other")):
        mine = rows[:, 1] == place
        wanted = accuracy_score(labels[mine], logits[mine].argmax(1))
        worst.append(wanted)
        assert found[name]["examples"] == int(mine.sum())
        assert found[name]["accuracy"] == pytest.approx(wanted)
        auroc = roc_auc_score(labels[mine], logits[mine][:, 1])
        assert found[name]["auroc"] == pytest.approx(auroc, abs=0.01)
        low, high = found[name]["intervals"]["auroc"]
        assert low < found[name]["auroc"] < high
    assert sums.metrics_of(one, total)["worst_group_accuracy"] == pytest.approx(min(worst))


def test_a_group_of_few_examples_is_not_called_the_worst() -> None:
    rows, labels, logits = drawn(ENOUGH - 1)
    made = sums.metrics_of(task(), sums.of_batch(task(), logits, (rows, labels)))
    assert math.isnan(made["worst_group_accuracy"])


def test_without_a_subgroup_nothing_more_is_counted() -> None:
    rows, labels, logits = drawn()
    plain = task("")
    assert set(sums.of_batch(plain, logits, (rows, labels))) == {
        "loss",
        "size",
        "confusion",
        "scores",
    }
    assert list(plain.shown)[-1] == "loss"


def test_a_column_that_is_no_group_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"task.subgroup=x is no category or flag"):
        task("x")
